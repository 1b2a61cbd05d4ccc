/** One row a photo: original, protected, recovered, beside each other. */

import { pngName } from "./api.js";
import { bytes, el, pixels, say, show } from "./dom.js";

const TITLES = { original: "Original", protected: "Protected", recovered: "Recovered" };

class Row {
  constructor(photo, about, kinds, remove) {
    Object.assign(this, { photo, about, views: {} });
    for (const kind of kinds) this.views[kind] = this.view(kind);
    const cross = { type: "button", className: "quiet", onclick: () => remove(photo), "aria-label": `Remove ${photo.name}` };
    this.error = el("p", { className: "problem", role: "alert" });
    this.reading = el("p", { className: "reading" });
    this.link = el("a", { className: "button", hidden: true, "aria-label": `Protected PNG of ${photo.name}, to download` });
    this.link.append("Protected PNG");
    this.node = el(
      "li", { className: "row" },
      el("div", { className: "views" }, kinds.map((kind) => this.views[kind].node)),
      el(
        "div", { className: "about" },
        el("p", { className: "name" }, el("b", {}, photo.name)),
        el("p", { className: "soft" }, photo.blob ? this.facts() : ""),
        this.reading, this.error,
        el("div", { className: "line" }, this.link, el("button", cross, "Remove")),
      ),
    );
    if (photo.blob) this.showOriginal();
  }

  facts() {
    const { blob, size } = this.photo;
    const other = size && (size[0] !== this.about.size[0] || size[1] !== this.about.size[1]);
    return [bytes(blob.size), size?.join(" × "), other && "another size than the veils"].filter(Boolean).join(", ");
  }

  view(kind) {
    const [height, width] = this.about.size;
    const img = el("img", { width, height, alt: "", hidden: true, className: kind === "original" ? "" : "crop" });
    const wait = el("span", {});
    const how = el("span", { className: "how" });
    const caption = el("figcaption", {}, TITLES[kind], " ", how);
    return { img, wait, how, node: el("figure", {}, el("div", { className: "frame" }, img, wait), caption) };
  }

  showOriginal() {
    const { img, wait } = this.views.original;
    const [height, width] = this.about.size;
    img.addEventListener("load", () => img.classList.toggle("crop", img.naturalWidth === width && img.naturalHeight === height));
    img.addEventListener("error", () => {
      img.hidden = true;
      say(wait, "not a picture");
    });
    img.hidden = false;
    img.alt = `${this.photo.name}, original`;
    show(img, this.photo.blob);
  }

  /** mixed: other rows are shown under other settings than the bank's. waiting: what stands where no picture is. */
  draw(mixed, waiting) {
    const { photo } = this;
    const made = photo.tried ?? photo.made;
    for (const kind of ["protected", "recovered"]) {
      const view = this.views[kind];
      if (!view) continue;
      const blob = made[kind] ?? null;
      show(view.img, blob);
      view.img.hidden = !blob;
      view.img.alt = blob ? `${photo.name}, ${kind}` : "";
      say(view.wait, blob || photo.error ? "" : waiting[kind]);
      say(view.how, blob && mixed && !photo.tried ? "as the bank" : "");
    }
    say(this.error, photo.error);
    this.node.classList.toggle("bad", Boolean(photo.error));
    this.offer(photo.made.protected);
    this.measure(made.recovered);
  }

  offer(blob) {
    this.link.hidden = !blob;
    if (!blob || this.link.blob === blob) return;
    if (this.link.blob) URL.revokeObjectURL(this.link.href);
    this.link.blob = blob;
    this.link.href = URL.createObjectURL(blob);
    this.link.download = pngName(this.photo.name);
  }

  /** How far the recovered photo is from the original: of PNG of the bank's size, which every reader reads alike. */
  async measure(recovered) {
    if (this.measured === recovered) return;
    this.measured = recovered;
    if (!recovered) say(this.reading, "");
    if (!recovered || this.photo.blob.type !== "image/png") return;
    try {
      this.photo.original ??= await pixels(this.photo.blob);
      const [before, after] = [this.photo.original, await pixels(recovered)];
      if (this.measured !== recovered) return;
      say(this.reading, before.data.length === after.data.length ? wordsOf(farthest(before.data, after.data)) : "");
    } catch {
      say(this.reading, "");
    }
  }

  free() {
    for (const { img } of Object.values(this.views)) show(img, null);
    if (this.link.blob) URL.revokeObjectURL(this.link.href);
    this.node.remove();
  }
}

function farthest(before, after) {
  let most = 0;
  for (let i = 0; i < before.length; i++) most = Math.max(most, Math.abs(before[i] - after[i]));
  return most;
}

const wordsOf = (most) => (most ? `Recovered within ${most} of 255 levels` : "Recovered exactly");

export class Rows {
  /** kinds: the columns there are. remove: called with the photo whose button was pressed. */
  constructor(list, about, kinds, remove) {
    Object.assign(this, { list, about, kinds, remove, rows: new Map() });
    list.classList.toggle("two", kinds.length === 2);
  }

  /** Rows of these photos, in order; those that stay keep their nodes. */
  sync(photos) {
    const wanted = new Set(photos);
    for (const [photo, row] of this.rows) {
      if (wanted.has(photo)) continue;
      row.free();
      this.rows.delete(photo);
    }
    for (const photo of photos) {
      if (this.rows.has(photo)) continue;
      const row = new Row(photo, this.about, this.kinds, this.remove);
      this.rows.set(photo, row);
      this.list.append(row.node);
    }
  }

  draw(mixed, waiting) {
    for (const row of this.rows.values()) row.draw(mixed, waiting);
  }
}
