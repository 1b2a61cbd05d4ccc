/** A text field with a list of names under it (ARIA's editable combobox). Any text may be typed. */

import { el, say } from "./dom.js";

const MOST_SHOWN = 50;

export class Combobox {
  constructor(input, list) {
    Object.assign(this, { input, list, names: [], at: -1 });
    input.addEventListener("input", () => this.open());
    input.addEventListener("click", () => this.open());
    input.addEventListener("blur", () => this.close());
    input.addEventListener("keydown", (event) => this.key(event));
    list.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    list.addEventListener("click", (event) => this.take(event.target.closest("[role=option]")));
  }

  /** The names to choose from; none: a plain text field. */
  fill(names) {
    this.names = names;
    const wants = { role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": this.list.id };
    for (const [name, value] of Object.entries(wants)) {
      if (names.length) this.input.setAttribute(name, value);
      else this.input.removeAttribute(name);
    }
    this.input.classList.toggle("choice", names.length > 0);
    this.close();
  }

  get options() {
    return [...this.list.querySelectorAll("[role=option]")];
  }

  open(all = false) {
    if (!this.names.length) return;
    const typed = all ? "" : this.input.value.trim().toLowerCase();
    const found = this.names.filter((name) => name.toLowerCase().includes(typed));
    const exact = found.length === 1 && found[0] === this.input.value;
    this.list.replaceChildren(...found.slice(0, MOST_SHOWN).map((name, i) => this.option(name, i)));
    if (found.length > MOST_SHOWN) {
      const more = el("li", { className: "more", role: "presentation" });
      say(more, `${found.length - MOST_SHOWN} more: type to narrow`);
      this.list.append(more);
    }
    this.list.hidden = exact || !found.length;
    this.input.setAttribute("aria-expanded", String(!this.list.hidden));
    this.mark(-1);
  }

  option(name, i) {
    return el("li", { id: `person-${i}`, role: "option", "aria-selected": "false" }, name);
  }

  close() {
    this.list.hidden = true;
    if (this.names.length) this.input.setAttribute("aria-expanded", "false");
    this.mark(-1);
  }

  mark(at) {
    const options = this.options;
    this.at = options.length ? Math.max(-1, Math.min(at, options.length - 1)) : -1;
    options.forEach((option, i) => option.setAttribute("aria-selected", String(i === this.at)));
    const chosen = options[this.at];
    if (chosen) {
      this.input.setAttribute("aria-activedescendant", chosen.id);
      chosen.scrollIntoView({ block: "nearest" });
    } else this.input.removeAttribute("aria-activedescendant");
  }

  take(option) {
    if (!option) return;
    this.input.value = option.textContent;
    this.close();
    this.input.dispatchEvent(new Event("change", { bubbles: true }));
  }

  key(event) {
    if (!this.names.length) return;
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (move) {
      event.preventDefault();
      if (this.list.hidden) this.open(true);
      this.mark(this.at < 0 && move < 0 ? this.options.length - 1 : this.at + move);
    } else if (event.key === "Enter" && !this.list.hidden && this.at >= 0) {
      event.preventDefault(); // takes the name; the next Enter sends
      this.take(this.options[this.at]);
    } else if (event.key === "Escape" && !this.list.hidden) {
      event.preventDefault();
      this.close();
    }
  }
}
