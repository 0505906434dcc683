// The HTTP interface: one function a call, with the token, a deadline, and errors as values of one class.
// The token lives in sessionStorage: it ends with the tab, and no other origin can read it.

const KEY = "bms.token";
let held = null;

/** What went wrong: `status` 0 means that the node did not answer; `problem` is the body of problem+json. */
export class ApiError extends Error {
  constructor(status, text, problem = {}) {
    super(text);
    this.status = status;
    this.problem = problem;
  }
}

export function token() {
  try {
    return held ?? sessionStorage.getItem(KEY);
  } catch {
    return held;
  }
}

export function keepToken(value) {
  held = value;
  try {
    if (value === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  } catch {
    // No storage: the token lasts as long as this page.
  }
}

let onRefused = () => {};
/** Call `listener` whenever the token itself is refused (401). */
export function onTokenRefused(listener) { onRefused = listener; }

/** A request; the Response if it is a success, an ApiError otherwise. `body` is bytes or text, or a value as `json`. */
export async function send(method, path, { json, body, headers = {}, deadlineMs = 15_000, anonymous = false, signal } = {}) {
  const mine = token();
  const all = { Accept: "application/json", ...headers };
  if (mine && !anonymous) all.Authorization = `Bearer ${mine}`;
  if (json !== undefined) all["Content-Type"] = "application/json";
  const limit = AbortSignal.timeout(deadlineMs);
  let response;
  try {
    response = await fetch(path, {
      method, headers: all, body: json === undefined ? body : JSON.stringify(json), cache: "no-store", credentials: "omit",
      signal: signal && AbortSignal.any ? AbortSignal.any([signal, limit]) : limit,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, error.name === "TimeoutError" ? "The node did not answer in time." : "The node cannot be reached.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401 && !anonymous && mine === token()) onRefused(problem.detail);
  throw new ApiError(response.status, problem.detail || problem.title || `The node answered ${response.status}.`, problem);
}

const base = "/api/v1";

/** A path of the interface with its query; undefined and empty values are left out. */
export function url(path, query = {}) {
  const pairs = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return base + path + (pairs.length ? `?${new URLSearchParams(pairs)}` : "");
}

export const get = async (path, query, options) => (await send("GET", url(path, query), options)).json();
export const post = async (path, json, options) => (await send("POST", url(path), { json, ...options })).json();
export const patch = async (path, json) => (await send("PATCH", url(path), { json })).json();
export const remove = (path) => send("DELETE", url(path));

/** All pages of a list, at most `max` items: {items, isAll}. */
export async function pages(path, field, query = {}, max = 10_000) {
  const items = [];
  let cursor;
  do {
    const page = await get(path, { limit: 1000, ...query, cursor });
    items.push(...page[field]);
    cursor = page.next;
  } while (cursor && items.length < max);
  return { items: items.slice(0, max), isAll: !cursor };
}

/** Where a key lives. A key that is not text is named by its bytes. */
export function keyPath(space, key) {
  // "/" stays escaped: browsers take "..", as a part of a path, away.
  const name = typeof key === "string" ? encodeURIComponent(key) : Array.from(key, (byte) => `%${byte.toString(16).padStart(2, "0")}`).join("");
  return `/data/${encodeURIComponent(space)}/${name}`;
}
