/** The service's routes. The token is in this module's memory and nowhere else. */

let token = "";

export const hasToken = () => token !== "";

export function setToken(text) {
  token = text;
}

/** What a request failed with. message: for people. problems: [{index, detail}] by place in the request. */
export class Problem extends Error {
  constructor({ status = 0, code = "", detail = "", title = "", problems = [] }, retryAfter = "") {
    const words = detail || title || `The service answered with status ${status}.`;
    super(retryAfter ? `${words} Try again in ${retryAfter} s.` : words);
    Object.assign(this, { status, code, problems: Array.isArray(problems) ? problems : [] });
  }
}

async function problemOf(response) {
  let about = {};
  try {
    about = await response.json();
  } catch {
    // a proxy in between answers with a page of its own
  }
  const retryAfter = response.status === 503 ? response.headers.get("Retry-After") : "";
  return new Problem({ ...about, status: response.status }, retryAfter);
}

/** Sends one request; addresses are relative, so that the page works under any prefix. secret: with the token. */
async function send(path, { query = {}, body = null, secret = true, signal } = {}) {
  const words = new URLSearchParams(query).toString();
  const headers = secret && token ? { Authorization: `Bearer ${token}` } : {};
  const options = { method: body ? "POST" : "GET", body, headers, signal, cache: "no-store", redirect: "error" };
  let response;
  try {
    response = await fetch(words ? `${path}?${words}` : path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ code: "unreachable", detail: "The service cannot be reached, or ended the connection." });
  }
  if (response.ok) return response;
  throw await problemOf(response);
}

function formOf(person, files) {
  const form = new FormData();
  form.append("person", person);
  for (const { blob, name } of files) form.append("photo", blob, name);
  return form;
}

/** Parts of a multipart answer by name. */
async function partsOf(response) {
  const form = await response.formData();
  return Object.fromEntries([...new Set(form.keys())].map((name) => [name, form.getAll(name)]));
}

/** Photos out of an answer: one comes bare, several as multipart. */
async function photosOf(response, wanted) {
  const bare = !(response.headers.get("Content-Type") ?? "").startsWith("multipart/");
  const photos = bare ? [await response.blob()] : (await partsOf(response)).photo ?? [];
  if (photos.length === wanted) return photos;
  throw new Problem({ detail: `The service sent ${photos.length} photos for ${wanted}.` });
}

const photoNames = (name) => (name.toLowerCase().endsWith(".png") ? name : `${name}.png`);
export { photoNames as pngName };

export const about = async () => (await send("v1/about", { secret: false })).json();
export const audit = async () => (await send("v1/audit")).json();

/** Names of people with a veil, up to `most`: {names, total}. */
export async function veils(most) {
  const names = [];
  let [after, total] = ["", 0];
  do {
    const query = after ? { after, limit: 1000 } : { limit: 1000 };
    const page = await (await send("v1/veils", { query })).json();
    names.push(...page.people.map((person) => person.name));
    [after, total] = [page.next, page.veils];
  } while (after && names.length < most);
  return { names, total };
}

export async function protect(person, files, query, secret) {
  return photosOf(await send("v1/protect", { query, body: formOf(person, files), secret }), files.length);
}

export async function recover(person, files) {
  return photosOf(await send("v1/recover", { body: formOf(person, files) }), files.length);
}

/** {protected, recovered, average, attacked}: lists of pictures; the last two are empty of a single photo. */
export async function explore(person, files, query, signal) {
  const parts = await partsOf(await send("v1/explore", { query, body: formOf(person, files), signal }));
  return { protected: [], recovered: [], average: [], attacked: [], ...parts };
}

const OVERHEAD = 4096; // of a request besides its photos, and of each photo, bytes
export const fits = (size, limits) => size + 2 * OVERHEAD <= limits.body_bytes;

/** Files in batches, each within the limits of one request. */
export function batches(files, limits) {
  const found = [];
  let room = 0;
  for (const file of files) {
    const cost = file.blob.size + OVERHEAD;
    if (!found.length || found.at(-1).length >= limits.photos || cost > room) {
      found.push([]);
      room = limits.body_bytes - OVERHEAD;
    }
    found.at(-1).push(file);
    room -= cost;
  }
  return found;
}
