// Numbers, sizes, times and ids as people read them. Plain functions; "–" stands for what is not known.

export const NONE = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** Three significant digits at most, thousands grouped. */
export function number(value) {
  if (!isNumber(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return whole.format(value);
  return String(Number(value.toPrecision(size >= 10 ? 3 : 2)));
}

function scaled(value, step, units) {
  if (!isNumber(value)) return [NONE, ""];
  let size = Math.abs(value), at = 0;
  while (size >= step * 0.9995 && at < units.length - 1) { size /= step; at += 1; }
  const digits = size >= 100 || Number.isInteger(size) ? 0 : size >= 10 ? 1 : 2;
  return [`${value < 0 ? "-" : ""}${size.toFixed(at === 0 ? 0 : digits)}`, units[at]];
}

/** [figure, unit] of a number of bytes. */
export const bytesParts = (value) => scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);
/** [figure, unit] of bytes a second. */
export const rateParts = (value) => { const [figure, unit] = bytesParts(value); return [figure, unit && `${unit}/s`]; };
/** [figure, unit] of a plain count. */
export const countParts = (value) => (isNumber(value) && Math.abs(value) < 10_000 ? [number(value), ""] : scaled(value, 1000, ["", "k", "M", "G"]));
/** [figure, unit] of a short duration in seconds. */
export function secondsParts(value) {
  if (!isNumber(value)) return [NONE, ""];
  const size = Math.abs(value);
  if (size === 0) return ["0", "ms"];
  if (size < 0.001) return [number(value * 1e6), "µs"];
  return size < 1 ? [number(value * 1e3), "ms"] : [number(value), "s"];
}
const joined = (parts) => (parts[1] ? `${parts[0]} ${parts[1]}` : parts[0]);
export const bytes = (value) => joined(bytesParts(value));
export const rate = (value) => joined(rateParts(value));
export const count = (value) => joined(countParts(value));
export const seconds = (value) => joined(secondsParts(value));
export const perSecond = (value) => (isNumber(value) ? `${number(value)}/s` : NONE);
export const percent = (value) => (isNumber(value) ? `${number(Math.round(value * 1e4) / 100)} %` : NONE);

/** A long duration: "3 d 4 h", "12 min", "8 s". */
export function age(value) {
  if (!isNumber(value)) return NONE;
  const total = Math.max(0, Math.round(value));
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = units.findIndex(([size]) => total >= size);
  if (at < 0) return "0 s";
  const [size, name] = units[at], next = units[at + 1];
  const rest = next && at < 2 ? Math.floor((total % size) / next[0]) : 0;
  return `${Math.floor(total / size)} ${name}${rest ? ` ${rest} ${next[1]}` : ""}`;
}

const clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayFormat = new Intl.DateTimeFormat("en-GB", { year: "numeric", month: "short", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** The time of day of Unix seconds. */
export const clock = (time) => (isNumber(time) ? clockFormat.format(time * 1000) : NONE);
/** Date and time of Unix seconds. */
export const moment = (time) => (isNumber(time) ? dayFormat.format(time * 1000) : NONE);
let ahead = 0; // seconds that the node's clock is ahead of the browser's
/** What time it is at the node now, as it has just said: ages are told by its clock, since the browser's may be another. */
export function setClock(time) { if (isNumber(time)) ahead = time - Date.now() / 1000; }
/** The time at the node, Unix seconds. */
export const nodeNow = () => Date.now() / 1000 + ahead;
/** How long ago Unix seconds of the node were. */
export const ago = (time) => (isNumber(time) ? (nodeNow() - time < 1.5 ? "now" : `${age(nodeNow() - time)} ago`) : NONE);

/** The first digits of an id. */
export const short = (id) => (typeof id === "string" ? id.slice(0, 8) : NONE);

/** "1 node", "2 nodes". */
export const plural = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;

/** Bytes as a classic hex view, at most `limit` of them. */
export function hex(data, limit = 4096) {
  const lines = [];
  for (let at = 0; at < Math.min(data.length, limit); at += 16) {
    const part = Array.from(data.subarray(at, Math.min(at + 16, limit)));
    const digits = part.map((byte) => byte.toString(16).padStart(2, "0"));
    const text = part.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(4, "0")}  ${digits.slice(0, 8).join(" ").padEnd(23)}  ${digits.slice(8).join(" ").padEnd(23)}  ${text}`);
  }
  return lines.join("\n");
}

/** Text if the bytes are UTF-8 without control characters other than white space; null otherwise. */
export function textOf(data) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(data);
    return /[\u0000-\u0008\u000b\u000c\u000e-\u001f]/.test(text) ? null : text;
  } catch {
    return null;
  }
}

/** Base64 text to bytes; null if it is none. */
export function fromBase64(text) {
  try {
    return Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (letter) => letter.charCodeAt(0));
  } catch {
    return null;
  }
}
