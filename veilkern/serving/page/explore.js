/** Other settings than the bank's, and the averaging attack on both schemes. */

import { explore } from "./api.js";
import { $, count, el, say, show } from "./dom.js";

const MOST_PHOTOS = 16; // of one request, by the contract
const DEBOUNCE = 70; // milliseconds of rest before a request goes out
const MOST_WAIT = 280; // while one drags without a rest
const LEVELS = [16, 32, 64, 128];
const SEES = {
  blend:
    "Every photo was mixed with the same veil, so the average is nearly that veil, and what a photo has beyond it is the face. " +
    "Whoever collects a few protected photos of one person sees this; more photos make it clearer.",
  sealed:
    "Every photo has a keystream of its own, so the average comes close to the veil and holds nothing of any photo. " +
    "What is left of each photo is uniform noise, however many photos the attacker has.",
};

const settingWords = (scheme, value) => (scheme === "sealed" ? `${value} levels` : `alpha ${value.toFixed(2)}`);
export const wordsOf = (scheme, value) => `${scheme}, ${settingWords(scheme, value)}`;

/** One scheme's side of the attack. */
class Side {
  constructor(scheme, about) {
    Object.assign(this, { scheme, value: bankValue(scheme, about), answer: null, controller: null, images: [] });
    const [height, width] = about.size;
    this.picture = () => el("img", { className: "crop", width, height, alt: "" });
    this.how = el("span", {});
    this.average = el("div", { className: "frame" });
    this.left = el("ol", { className: "strip", "aria-label": `What is left of each photo, ${scheme}` });
    this.body = el(
      "div", { className: "side-body" },
      el("figure", { className: "mean" }, this.average, el("figcaption", {}, "Average of the protected photos")),
      el("div", {}, this.left, el("p", { className: "caption" }, "Each photo less the average, stretched")),
    );
    this.node = el(
      "article", { className: `side ${scheme}`, "aria-label": scheme === "blend" ? "Blend" : "Sealed" },
      el("h3", {}, scheme === "blend" ? "Blend" : "Sealed", this.how), this.body, el("p", { className: "sees" }, SEES[scheme]),
    );
  }

  get query() {
    return this.scheme === "sealed" ? { scheme: "sealed", levels: this.value } : { scheme: "blend", alpha: +this.value.toFixed(6) };
  }

  clear(photos) {
    this.controller?.abort();
    this.answer = this.controller = null;
    this.draw(photos);
  }

  /** The answer's pictures, or empty frames for as many photos: nothing moves when the pictures come. */
  draw(photos = 4) {
    const { average = [], attacked = [] } = this.answer?.parts ?? {};
    say(this.how, settingWords(this.scheme, this.answer?.value ?? this.value));
    const wanted = [...average, ...attacked];
    const frames = Math.max(attacked.length, this.answer ? 0 : Math.min(photos, MOST_PHOTOS));
    if (this.images.length !== wanted.length || this.left.children.length !== frames) {
      for (const img of this.images) show(img, null);
      this.images = wanted.map(() => this.picture());
      const cells = Array.from({ length: frames }, (_, i) => el("li", { className: "frame" }, this.images[average.length + i]));
      this.average.replaceChildren(...this.images.slice(0, average.length));
      this.left.replaceChildren(...cells);
    }
    wanted.forEach((blob, i) => {
      const what = i < average.length ? "average of the protected photos" : `what is left of ${this.answer.photos[i - average.length].name}`;
      this.images[i].alt = `${this.scheme}: ${what}`;
      show(this.images[i], blob);
    });
  }
}

function bankValue(scheme, about) {
  if (scheme === "sealed") return about.scheme === "sealed" ? about.levels : 64;
  return about.scheme === "blend" ? about.blend / 255 : 0.2;
}

export class Explorer {
  /** hooks: files() gives {person, files} for a request or null; flags() the queries of the check boxes;
   * came() after each answer; failed(error, files). */
  constructor(about, hooks) {
    Object.assign(this, { about, hooks, scheme: about.scheme, on: false, timer: 0, since: null });
    this.sides = { blend: new Side("blend", about), sealed: new Side("sealed", about) };
    $("duel").append(this.sides.blend.node, this.sides.sealed.node);
    for (const scheme of ["sealed", "blend"]) $(scheme).addEventListener("change", () => this.choose(scheme));
    $("setting").addEventListener("input", () => this.turn());
    $("as-bank").addEventListener("click", () => this.reset());
    this.dial();
    this.enable(false);
  }

  /** Whether what is shown is what the bank makes. */
  get asBank() {
    return this.scheme === this.about.scheme && this.side.value === bankValue(this.scheme, this.about);
  }

  get side() {
    return this.sides[this.scheme];
  }

  get words() {
    return wordsOf(this.scheme, this.side.value);
  }

  enable(on) {
    this.on = on;
    $("scheme").disabled = !on;
    $("setting").disabled = !on;
    if (!on) this.clear();
    this.dial();
  }

  /** Forgets every answer and every request on its way. */
  clear() {
    clearTimeout(this.timer);
    this.since = null;
    for (const side of Object.values(this.sides)) side.clear(this.hooks.files(MOST_PHOTOS)?.files.length);
  }

  choose(scheme) {
    this.scheme = scheme;
    this.dial();
    this.changed();
  }

  turn() {
    const at = Number($("setting").value);
    this.side.value = this.scheme === "sealed" ? LEVELS[at] : at;
    this.tell();
    this.changed();
  }

  reset() {
    this.scheme = this.about.scheme;
    this.side.value = bankValue(this.scheme, this.about);
    this.dial();
    this.changed();
    $(this.scheme).focus(); // the button is disabled now and would drop the focus
  }

  /** The slider as the scheme wants it. */
  dial() {
    const sealed = this.scheme === "sealed";
    const range = sealed ? { min: 0, max: LEVELS.length - 1, step: 1 } : { min: 0.01, max: 0.99, step: 0.01 };
    Object.assign($("setting"), range);
    $("setting").value = sealed ? LEVELS.indexOf(this.side.value) : this.side.value;
    $(this.scheme).checked = true;
    say($("setting-name"), sealed ? "Levels" : "Alpha, the photo’s share");
    const ticks = sealed ? LEVELS : ["0.01", "0.5", "0.99"];
    $("ticks").replaceChildren(...ticks.map((tick) => el("span", {}, String(tick))));
    this.tell();
  }

  tell() {
    const sealed = this.scheme === "sealed";
    const text = sealed ? String(this.side.value) : this.side.value.toFixed(2);
    say($("setting-value"), text);
    $("setting").setAttribute("aria-valuetext", sealed ? `${text} levels` : `alpha ${text}`);
    $("as-bank").disabled = !this.on || this.asBank;
  }

  /** After a change of scheme or setting: what is there is shown at once, what is not is asked for when one rests. */
  changed() {
    clearTimeout(this.timer);
    if (this.side.answer?.value === this.side.value) {
      this.side.controller?.abort();
      this.since = null;
      this.hooks.came();
      return;
    }
    const now = performance.now();
    this.since ??= now;
    const scheme = this.scheme;
    const rest = Math.max(0, Math.min(DEBOUNCE, this.since + MOST_WAIT - now));
    this.timer = setTimeout(() => {
      this.since = null;
      this.ask(scheme);
    }, rest);
    if (this.asBank) this.hooks.came();
  }

  /** Asks for both schemes anew: other photos, another person. */
  async refresh() {
    this.clear();
    if (!this.on) return;
    await this.ask(this.scheme);
    await this.ask(this.scheme === "sealed" ? "blend" : "sealed");
  }

  /** One request; the one before of the same scheme is aborted, and only the latest answer is taken. */
  async ask(scheme) {
    const side = this.sides[scheme];
    side.controller?.abort();
    const wanted = this.on && this.hooks.files(MOST_PHOTOS);
    if (!wanted) return;
    const controller = (side.controller = new AbortController());
    const value = side.value;
    const { person, files } = wanted;
    try {
      const parts = await explore(person, files, { ...side.query, ...this.hooks.flags() }, controller.signal);
      if (side.controller !== controller) return;
      side.answer = { value, parts, photos: files.map((file) => file.photo) };
      side.draw();
      this.hooks.came();
    } catch (error) {
      if (side.controller === controller && error.name !== "AbortError") this.hooks.failed(error, files);
    }
  }

  /** Puts the current answer into the photos; without the role protect the bank's own pictures come from here too. */
  apply(photos, makes) {
    const { answer } = this.side;
    const own = this.asBank && makes;
    for (const photo of photos) photo.tried = null;
    if (!answer || own) return;
    answer.photos.forEach((photo, i) => {
      photo.tried = { protected: answer.parts.protected[i], recovered: answer.parts.recovered[i] };
    });
  }

  /** What the attack panel says of its photos. */
  note(photos) {
    if (!this.on) return "Needs the token.";
    if (photos < 2) return "Needs two protected photos of one person or more.";
    const few = photos > MOST_PHOTOS ? `The first ${MOST_PHOTOS} of ${photos} photos.` : `${count(photos, "photo")} of one person.`;
    return `${few} The slider above turns the side of its scheme.`;
  }
}
