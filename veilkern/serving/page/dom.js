/** Small helpers for the page. Text goes in as text, never as HTML. */

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; null and false are left out. */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === false || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && !name.startsWith("aria")) node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== false && child !== undefined));
  return node;
}

/** An SVG element; SVG attributes need no inline style. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Text of a line; written only where it changes, so that a live region does not say it twice. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A problem at a field: its line, and the mark on the field that assistive technology reads. */
export function fault(field, line, text) {
  say(line, text);
  if (text) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

export const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

export function bytes(n) {
  if (n >= 1 << 20) return `${(n / (1 << 20)).toFixed(1).replace(/\.0$/, "")} MiB`;
  return n >= 1024 ? `${Math.round(n / 1024)} KiB` : count(n, "byte");
}

/** Shows a picture in an <img>; the one before stays until this one is decoded, and its memory is given back then. */
export function show(img, blob) {
  if (img.blob === blob) return;
  const before = img.url;
  img.blob = blob;
  img.url = blob ? URL.createObjectURL(blob) : "";
  const release = () => before && URL.revokeObjectURL(before);
  if (!blob) {
    img.removeAttribute("src");
    release();
    return;
  }
  img.addEventListener("load", release, { once: true });
  img.addEventListener("error", release, { once: true });
  img.src = img.url;
}

/** The pixels of a picture as they lie in the file: {width, height, data}. Throws where the browser cannot read it. */
export async function pixels(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = el("canvas", { width: bitmap.width, height: bitmap.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** Height and width of a picture without decoding all of it; null where the browser cannot read it. */
export async function sizeOf(blob) {
  const img = new Image();
  const url = URL.createObjectURL(blob);
  const size = await new Promise((resolve) => {
    img.addEventListener("load", () => resolve([img.naturalHeight, img.naturalWidth]));
    img.addEventListener("error", () => resolve(null));
    img.src = url;
  });
  URL.revokeObjectURL(url);
  return size;
}
