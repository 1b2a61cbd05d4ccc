/** The photos on the page: how they come in, and what is known of each. */

import { fits } from "./api.js";
import { $, bytes, count, sizeOf } from "./dom.js";

/** One photo. size: [height, width], null where the browser cannot read it. made: {protected, recovered} by the bank;
 * tried: the same under other settings; error: why not; refused: never sent. */
export class Photo {
  static #next = 0;

  constructor(name, blob) {
    Object.assign(this, { id: Photo.#next++, name, blob, size: null, error: "", refused: false, original: null });
    this.forget();
  }

  static refuse(name, error) {
    return Object.assign(new Photo(name, null), { refused: true, error: `${error}: not sent` });
  }

  forget() {
    Object.assign(this, { made: {}, tried: null, person: "" });
    if (!this.refused) this.error = "";
  }

  get usable() {
    return !this.refused;
  }
}

let pasted = 0;

/** A photo of a file, read into memory at once: what changes on the disk later does not matter. */
async function photoOf(file, limits) {
  const name = file.name || "photo.png";
  if (!fits(file.size, limits)) return Photo.refuse(name, `${bytes(file.size)}, and the service takes ${bytes(limits.body_bytes)} at most`);
  let blob;
  try {
    blob = new Blob([await file.arrayBuffer()], { type: file.type });
  } catch {
    return Photo.refuse(name, "cannot be read, a folder or a file that is gone");
  }
  const size = await sizeOf(blob);
  if (size && limits.pixels && size[0] * size[1] > limits.pixels) {
    return Photo.refuse(name, `${size.join(" × ")} pixels, and the service takes ${limits.pixels} at most`);
  }
  return Object.assign(new Photo(name, blob), { size });
}

/** Wires the zone, the file field, dropping and pasting; `take` gets lists of photos. */
export function intake(limits, take) {
  const zone = $("zone");
  const field = $("files");
  const add = async (files) => {
    if (files.length) take(await Promise.all([...files].map((file) => photoOf(file, limits))));
  };
  zone.addEventListener("click", () => field.click());
  field.addEventListener("change", async () => {
    const files = [...field.files];
    field.value = ""; // the same file may be chosen again
    await add(files);
  });
  dropping(zone, add);
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
    if (!files.length) return;
    event.preventDefault();
    add(files.map((file) => new File([file], `pasted-${++pasted}.${file.type.slice(6)}`, { type: file.type })));
  });
}

/** Files may be dropped anywhere: beside the zone the browser would leave the page for them. */
function dropping(zone, add) {
  const holds = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  let inside = 0;
  const mark = (change) => {
    inside = Math.max(0, change === 0 ? 0 : inside + change);
    zone.classList.toggle("over", inside > 0);
  };
  document.addEventListener("dragenter", (event) => holds(event) && mark(1));
  document.addEventListener("dragleave", (event) => holds(event) && mark(-1));
  document.addEventListener("dragover", (event) => {
    if (holds(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!holds(event)) return;
    event.preventDefault();
    mark(0);
    add(event.dataTransfer.files);
  });
}

export const ready = (photos) => photos.filter((photo) => photo.usable);

/** Files of photos for a request. */
export const filesOf = (photos) => photos.map((photo) => ({ blob: photo.blob, name: photo.name, photo }));

export const told = (photos) => count(photos.length, "photo");
