/** The page: photos and a person in, pictures beside each other out. */

import * as api from "./api.js";
import { report } from "./audit.js";
import { Combobox } from "./combobox.js";
import { $, count, el, fault, say } from "./dom.js";
import { Explorer, wordsOf } from "./explore.js";
import { filesOf, intake, ready, told } from "./photos.js";
import { Rows } from "./rows.js";

const MOST_NAMES = 5000; // read for the list; any other name can be typed

class Page {
  constructor(about) {
    Object.assign(this, { about, photos: [], running: false, used: "", audited: false });
    const { roles, token } = about;
    this.can = Object.fromEntries(["protect", "recover", "veils"].map((role) => [role, roles.includes(role) && (role === "protect" || token.set)]));
    const kinds = this.can.recover ? ["original", "protected", "recovered"] : ["original", "protected"];
    this.rows = new Rows($("rows"), about, kinds, (photo) => this.remove(photo));
    this.people = new Combobox($("person"), $("people"));
    this.explorer = this.can.recover ? new Explorer(about, this.hooks()) : null;
    this.lay();
    this.listen();
    this.draw();
  }

  hooks() {
    return {
      files: (most) => {
        const photos = ready(this.photos).filter((photo) => photo.person && photo.usable);
        const files = api.batches(filesOf(photos), { ...this.about.limits, photos: most })[0];
        return files ? { person: photos[0].person, files } : null;
      },
      flags: () => this.flags,
      came: () => {
        say($("explore-problem"), "");
        this.draw();
      },
      failed: (error, files) => this.failed(error, $("explore-problem"), files),
    };
  }

  get flags() {
    return Object.fromEntries(["resize", "convert"].filter((name) => $(name).checked).map((name) => [name, "true"]));
  }

  /** What this service has, shown; what it has not, not. */
  lay() {
    const { about, can } = this;
    const [height, width] = about.size;
    document.documentElement.style.setProperty("--ratio", `${width} / ${height}`);
    document.documentElement.style.setProperty("--crop", `${width * Math.max(1, Math.round(224 / width))}px`);
    const facts = {
      Scheme: bankWords(about), Photos: `${height} × ${width}`, Recovery: `within ${about.error_bound} levels`,
      Network: about.model || "not recorded", Version: about.version,
    };
    $("facts").replaceChildren(...Object.entries(facts).map(([name, text]) => el("div", {}, el("dt", {}, name), el("dd", {}, text))));
    say($("size-words"), `${height} × ${width}`);
    $("token-form").hidden = !(can.recover || can.veils || about.token.everywhere);
    $("where").hidden = $("tools").hidden = $("attack").hidden = $("audit").hidden = !can.recover;
    $("ghost").classList.toggle("two", !can.recover);
    $("ghost-back").hidden = !can.recover;
    say($("go"), can.protect ? "Protect" : "Show");
  }

  listen() {
    intake(this.about.limits, (photos) => this.add(photos));
    $("bench").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    $("token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.useToken();
    });
    $("token-forget").addEventListener("click", () => this.forgetToken());
    $("clear").addEventListener("click", () => this.clear());
    for (const name of ["input", "change"]) $("person").addEventListener(name, () => fault($("person"), $("person-problem"), ""));
  }

  // Photos

  add(photos) {
    this.photos.push(...photos);
    const refused = photos.filter((photo) => photo.refused).length;
    say($("status"), `${told(photos)} added${refused ? `, ${refused} of them refused` : ""}.`);
    this.draw();
  }

  remove(photo) {
    const at = this.photos.indexOf(photo);
    this.photos.splice(at, 1);
    const made = Boolean(photo.person);
    this.draw();
    say($("status"), `${photo.name} removed.`);
    const next = $("rows").children[Math.min(at, this.photos.length - 1)]?.querySelector("button.quiet");
    (next ?? $("zone")).focus();
    if (made) this.explorer?.refresh();
  }

  clear() {
    this.photos = [];
    this.explorer?.clear();
    for (const line of ["problem", "explore-problem"]) say($(line), "");
    say($("status"), "Cleared.");
    this.draw();
    $("zone").focus();
  }

  // Protect and recover

  async run() {
    if (this.running) return;
    if (!this.open) {
      fault($("token"), $("token-problem"), "This needs the token.");
      return void $("token").focus();
    }
    const person = $("person").value.trim();
    say($("problem"), "");
    say($("explore-problem"), "");
    if (!ready(this.photos).length) return void say($("problem"), "Choose photos first.");
    if (!person) {
      fault($("person"), $("person-problem"), "Say whose photos these are.");
      return void $("person").focus();
    }
    this.running = true;
    this.draw();
    try {
      await this.typedToken();
      await this.make(person);
    } catch (error) {
      say($("status"), "");
      this.failed(error, $("problem"));
    }
    this.running = false;
    this.draw();
    await this.explorer?.refresh();
  }

  async make(person) {
    this.explorer?.clear();
    for (const photo of this.photos) photo.forget();
    const photos = ready(this.photos);
    if (this.can.protect) {
      await this.each(photos, "Protecting", async (files) => {
        const made = await api.protect(person, files, this.flags, this.about.token.everywhere);
        made.forEach((blob, i) => Object.assign(files[i].photo, { person, made: { protected: blob } }));
      });
    } else for (const photo of photos) photo.person = person;
    await this.recover();
    this.conclude();
  }

  /** Brings back what was protected, where the token is there. */
  async recover() {
    if (!this.can.recover || !this.can.protect || !api.hasToken()) return;
    const photos = this.photos.filter((photo) => photo.made.protected && !photo.made.recovered);
    if (!photos.length) return;
    const { person } = photos[0];
    const files = (photo) => ({ blob: photo.made.protected, name: api.pngName(photo.name), photo });
    await this.each(photos, "Recovering", async (batch) => {
      const back = await api.recover(person, batch);
      back.forEach((blob, i) => Object.assign(batch[i].photo.made, { recovered: blob }));
    }, files);
  }

  /** Sends photos batch by batch. A photo that is at fault is told in its row, and the rest goes again without it. */
  async each(photos, doing, send, file = (photo) => filesOf([photo])[0]) {
    let done = 0;
    for (const batch of api.batches(photos.map(file), this.about.limits)) {
      say($("status"), photos.length > batch.length ? `${doing} ${done + 1} to ${done + batch.length} of ${photos.length} …` : `${doing} ${told(photos)} …`);
      let left = batch;
      while (left.length) {
        try {
          await send(left);
          break;
        } catch (error) {
          if (!blame(error, left)) throw error;
          left = left.filter((one) => !one.photo.error);
        }
      }
      done += batch.length;
      this.draw();
    }
  }

  conclude() {
    const made = this.photos.filter((photo) => photo.made.protected).length;
    const back = this.photos.filter((photo) => photo.made.recovered).length;
    const bad = this.photos.filter((photo) => photo.error).length;
    const parts = [this.can.protect && `${made} protected`, back && `${back} recovered`, bad && `${count(bad, "photo")} refused`].filter(Boolean);
    say($("status"), parts.length ? `${parts.join(", ")}.` : "");
  }

  /** What a request failed with, told where it belongs. */
  failed(error, line, files = []) {
    if (error.status === 401) {
      const words = api.hasToken() ? "The service did not accept this token." : "This needs the token.";
      return fault($("token"), $("token-problem"), words);
    }
    if (error.code === "unknown_person") {
      fault($("person"), $("person-problem"), `${$("person").value.trim()}: ${error.problems[0]?.detail ?? error.message}.`);
      return void $("person").focus();
    }
    if (blame(error, files)) this.draw();
    else say(line, error instanceof api.Problem ? error.message : "The service’s answer ended early or cannot be read.");
  }

  // The token

  /** The token in the field, where nobody pressed Use. */
  async typedToken() {
    if ($("token").value !== this.used) await this.useToken();
  }

  async useToken() {
    const token = $("token").value;
    if (!token) return this.forgetToken();
    fault($("token"), $("token-problem"), "");
    if (!/^[\x21-\x7e]+$/.test(token)) return fault($("token"), $("token-problem"), "A token has letters, digits and signs of ASCII only, no blank.");
    api.setToken(token);
    this.used = token;
    try {
      const checked = await this.withToken();
      say($("token-note"), `${checked ? "Accepted." : "Taken; the next request will tell."} Kept in this tab’s memory only.`);
    } catch (error) {
      api.setToken("");
      this.people.fill([]);
      if (error.status === 401) fault($("token"), $("token-problem"), "The service did not accept this token.");
      else this.failed(error, $("token-problem"));
    }
    await this.tokenChanged();
  }

  /** Reads what the token opens: names and the audit. Whether anything was read. */
  async withToken() {
    if (this.can.veils) {
      const { names, total } = await api.veils(MOST_NAMES);
      this.people.fill(names);
      say($("person-note"), total > names.length ? `The first ${names.length} of ${total} are listed; any name may be typed.` : `${count(total, "person has a veil", "people have a veil")}.`);
    }
    if (this.can.recover && this.about.audit) {
      $("audit-body").replaceChildren(...report(await api.audit()));
      this.audited = true;
    }
    return this.can.veils || this.audited;
  }

  async tokenChanged() {
    this.explorer?.enable(api.hasToken());
    this.draw();
    if (this.running || !api.hasToken()) return;
    try {
      await this.recover();
      this.draw();
      await this.explorer?.refresh();
    } catch (error) {
      this.failed(error, $("problem"));
    }
  }

  forgetToken() {
    api.setToken("");
    Object.assign(this, { used: "", audited: false });
    $("token").value = "";
    fault($("token"), $("token-problem"), "");
    say($("token-note"), "Kept in this tab’s memory only.");
    say($("person-note"), "Whose photos these are.");
    $("audit-body").replaceChildren();
    this.people.fill([]);
    for (const photo of this.photos) delete photo.made.recovered;
    this.explorer?.enable(false);
    this.draw();
    $("token").focus();
  }

  // Drawing

  /** Whether the button may be pressed at all. */
  get open() {
    const { can, about } = this;
    return can.protect ? !about.token.everywhere || api.hasToken() || $("token").value !== "" : can.recover && api.hasToken();
  }

  draw() {
    const { photos, explorer } = this;
    explorer?.apply(photos, this.can.protect);
    this.rows.sync(photos);
    this.rows.draw(photos.some((photo) => photo.tried), this.waiting());
    $("ghost").hidden = photos.length > 0;
    $("go").disabled = this.running || !photos.length;
    $("clear").disabled = this.running || !photos.length;
    $("bench").setAttribute("aria-busy", String(this.running));
    $("token-forget").disabled = !api.hasToken();
    this.tell();
  }

  /** Under which settings the rows are shown. */
  shown() {
    const { about, explorer, photos } = this;
    const tried = photos.filter((photo) => photo.tried).length;
    if (!photos.some((photo) => photo.person) || !explorer.on) return "";
    if (!tried || !this.can.protect) return `Shown: ${tried ? explorer.words : bankWords(about)}.`;
    const rest = photos.some((photo) => photo.made.protected && !photo.tried) ? ` of the first ${tried} photos` : "";
    return `Shown: ${explorer.words}${rest}. Downloads are as the bank protects: ${bankWords(about)}.`;
  }

  waiting() {
    const back = api.hasToken() ? "" : "needs the token";
    return { protected: this.running ? "…" : "", recovered: this.running && !back ? "…" : back };
  }

  tell() {
    const { about, can, explorer, photos } = this;
    const without = can.recover && !api.hasToken();
    say($("go-note"), this.open ? "" : "This needs the token.");
    say($("tools-note"), without ? "Recovery, other settings and the attack need the token." : "");
    $("tools-note").hidden = !without;
    if (!explorer) return;
    say($("shown"), this.shown());
    say($("attack-note"), explorer.note(photos.filter((photo) => photo.person).length));
    say($("audit-note"), about.audit ? (this.audited ? "" : "Needs the token.") : "This service was started without an audit: veilkern serve --audit DIR.");
  }
}

const bankWords = (about) => wordsOf(about.scheme, about.scheme === "sealed" ? about.levels : about.blend / 255);

/** Puts problems of single photos into their rows; whether there were any. */
function blame(error, files) {
  const found = error.code === "unknown_person" ? [] : (error.problems ?? []).filter(({ index }) => files[index]);
  for (const { index, detail } of found) files[index].photo.error = detail || error.message;
  return found.length > 0;
}

try {
  new Page(await api.about());
  document.documentElement.dataset.ready = "";
} catch (error) {
  $("banner").hidden = false;
  say($("banner"), error instanceof api.Problem ? error.message : "This page could not be built. Load it again.");
}
