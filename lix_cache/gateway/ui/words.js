// Numbers and reasons as people read them.

const whole = new Intl.NumberFormat("en-US");
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value) => whole.format(value);
export const compact = (value) => (value < 10000 ? whole.format(value) : short.format(value));
export const plural = (value, one, many) => `${count(value)} ${value === 1 ? one : many}`;

export function share(part, all) {
  if (!all) return "–";
  const percent = (100 * part) / all;
  // Neither all nor nothing is said where it is not so.
  if (part !== all && percent > 99.5) return ">99 %";
  if (part && percent < 0.5) return "<1 %";
  return `${Math.round(percent)} %`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.01) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1e3)} ms`;
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

export function rest(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 129600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

export function money(value, currency) {
  const digits = value && Math.abs(value) < 1 ? 4 : 2;
  try {
    return new Intl.NumberFormat("en-US", {
      style: "currency", currency, minimumFractionDigits: digits, maximumFractionDigits: digits,
    }).format(value);
  } catch {
    return `${value.toFixed(digits)} ${currency}`; // a currency of the operator's own
  }
}

const pad = (number) => String(number).padStart(2, "0");

export function clock(time) {
  const at = new Date(time * 1000);
  return `${pad(at.getHours())}:${pad(at.getMinutes())}`;
}

export function moment(time) {
  const at = new Date(time * 1000);
  const day = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
  return Number.isNaN(at.getTime()) ? "" : `${day} ${clock(time)}`;
}

export const bytes = (value) => (value < 1 << 20 ? `${Math.round(value / 1024)} kB` : `${(value / (1 << 20)).toFixed(1)} MB`);

export const STATES = [
  { id: "hit-l1-exact", label: "Exact hit", says: "the very same request was answered before" },
  { id: "hit-l2-semantic", label: "Semantic hit", says: "a question of the same meaning was answered before" },
  { id: "hit-l3-verified", label: "Verified hit", says: "the same, and the verifier agreed" },
  { id: "miss", label: "Miss", says: "the provider answered" },
  { id: "bypass", label: "Bypass", says: "not for the cache; passed through" },
];

export const labelOf = (state) => (STATES.find((one) => one.id === state) || { label: state }).label;

const REASONS = {
  memory: "Found in this process",
  redis: "Redis did not answer the second tier",
  shared: "An equal request was under way; this one followed it",
  exact: "Not asked before, word for word; the second tier was not asked, as with tools, images, no embedder, or a response that is kept (store is not false)",
  semantic: "Near enough, ahead of all other answers, and no guard objected",
  empty: "Nothing is stored in this scope yet",
  below_threshold: "No stored question is near enough",
  margin: "Something that answers differently is nearly as near",
  score: "Near and ahead, but all in all not enough",
  guard: "A guard found that the two questions differ in what matters",
  verifier: "The verifier says that the two do not ask the same",
  verifier_failed: "The verifier could not answer, so nothing vouches for the hit",
  embedder_failed: "The embedder failed",
  embedder_timeout: "The embedder took too long",
  embedder_paused: "The embedder failed a moment ago and is left alone",
  no_embedding: "There is no embedder",
  policy: "The policy keeps this question out of the cache",
  audit: "Would have been a hit; asked anew, to measure how many hits are wrong",
  reported: "The answer was reported as wrong for this question",
  gone: "The client left, or the nearest entry expired in between",
  broken: "The provider broke off",
  no_cache: "The client asked for a fresh answer",
  unshared: "What an equal request brought was not for this one",
  whole: "The answer to some of the texts did not fit; the provider was asked for all",
  partial: "Some of the embeddings' texts were known, and only the others were asked for",
  unsuited: "The stored answer has not all that this request wants, such as its tokens in a stream",
  meaning_failed: "The second tier failed; the log says why",
  unreadable: "The stored answer cannot be read",
  too_old: "The stored answer is older than the client's max-age, or ends before its min-fresh",
  stream: "The field stream is neither true nor false",
  store: "The provider is asked to keep it",
  no_model: "The request names no model",
  path: "A path that is not cached",
  mode: "The client switched the cache off",
  unkeyable: "The body has no one form that a key could be made of",
  field: "A field of a request for embeddings that is not known to concern each text by itself",
  server_tool: "A tool that the provider carries out",
  foreign_host: "No tenant's key says who asks, and the name in Host is none of this machine",
  foreign_origin: "A page of another site asks, and no tenant's key says for whom",
  no_admin_key: "A path of the gateway's own, which needs the setting admin_key",
  invalid_key: "The key is not known here",
  rate_limit: "Too many requests of a key",
  budget_spent: "The day's tokens of a key are spent",
  not_cached: "The client wanted an answer of the cache or none",
  upstream_unavailable: "The provider did not answer",
};

export function meaning(reason, state) {
  if (state && state.startsWith("hit")) {
    if (reason === "exact") return "The same words were stored";
    if (reason === "redis") return "Found in Redis";
  }
  return Object.hasOwn(REASONS, reason) ? REASONS[reason] : "";
}
