// What both pages need: the way to the elements, how figures are written, and the live connection.
// Whatever a user may have written is put on the page as text only, never as markup.

const UNKNOWN = "–";
const SVG = "http://www.w3.org/2000/svg";
const SILENCE_MS = 5000;
const RECONNECT_MS = 1000;
const PATIENCE_MS = 4000;
const KEY = "api-key";
const SENDABLE = /^[\x21-\x7e]+$/;

export const byId = (id) => document.getElementById(id);

export function put(id, text) {
  const element = byId(id);
  const written = text === null || text === undefined ? UNKNOWN : String(text);
  if (element.textContent !== written) element.textContent = written;
  return element;
}

export function make(name, options = {}, ...children) {
  const element = document.createElement(name);
  if (options.class) element.className = options.class;
  if (options.href) element.setAttribute("href", options.href);
  if (options.role) element.setAttribute("role", options.role);
  for (const child of children) element.append(child);
  return element;
}

export function drawn(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// Text that a user wrote: its direction is its own and ends with it.
export const theirs = (text) => make("bdi", {}, text);

export function accountLink(id) {
  if (id.includes(":")) return theirs(id);
  return make("a", { href: `/accounts/${encodeURIComponent(id)}` }, theirs(id));
}

const shown = new Map();

// Fills a table's body; leaves it alone when nothing of it has changed. None is not the same as not
// known, which is null.
export function fill(id, facts, row) {
  const empty = byId(`${id}-empty`);
  empty.hidden = facts !== null && facts.length > 0;
  empty.textContent = facts === null ? "Not known." : empty.dataset.none;
  const before = JSON.stringify(facts);
  if (shown.get(id) === before) return;
  shown.set(id, before);
  byId(id).replaceChildren(...(facts ?? []).map((each) => make("tr", { role: "row" }, ...row(each))));
}

export const cell = (content, kind = "") => make("td", { class: kind, role: "cell" }, content);

export function count(value) {
  return value === null || value === undefined ? UNKNOWN : Math.round(value).toLocaleString("en");
}

export function rate(value) {
  if (value === null || value === undefined) return UNKNOWN;
  return value >= 10 || value === 0 ? count(value) : value.toFixed(1);
}

export function share(value) {
  if (value === null || value === undefined) return UNKNOWN;
  // Never rounded up to all of it.
  return `${(Math.floor(value * 10000) / 100).toLocaleString("en", { maximumFractionDigits: 2 })} %`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (value === 0) return "0 ms";
  if (value >= 10000) return `${(value / 1000).toFixed(0)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return value >= 10 ? `${value.toFixed(0)} ms` : `${value.toFixed(1)} ms`;
}

// A decimal string with its thousands set apart, digit by digit: never through a float.
export function amount(text) {
  const [whole, part] = text.replace("-", "").split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return (text.startsWith("-") ? "−" : "") + grouped + (part === undefined ? "" : `.${part}`);
}

export function moved(transaction) {
  return (transaction.type === "debit" ? "−" : "+") + amount(transaction.amount);
}

const two = (number) => String(number).padStart(2, "0");

export function clock(text) {
  const at = new Date(text);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export function moment(text) {
  const at = new Date(text);
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return day === moment.today() ? clock(text) : `${day} ${clock(text)}`;
}
moment.today = () => {
  const at = new Date();
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
};

export function tag(word) {
  const kind = { postgres: "warn", closed: "bad", VOID: "bad" }[word] ?? "";
  return make("span", { class: `tag ${kind}` }, word);
}

export function reference(transaction) {
  const content = make("td", { class: "text", role: "cell" });
  if (transaction.reference) content.append(make("div", {}, theirs(transaction.reference)));
  for (const [key, value] of Object.entries(transaction.metadata ?? {})) {
    content.append(make("div", {}, theirs(key), ": ", theirs(value)));
  }
  return content;
}

export function notice(text, kind = "") {
  const element = byId("notice");
  element.hidden = !text;
  element.className = `notice ${kind}`;
  if (element.textContent !== text) element.textContent = text;
}

export function linkIs(state, text) {
  const link = byId("link");
  link.dataset.state = state;
  if (link.textContent !== text) link.textContent = text;
  document.body.dataset.stale = state === "lost" ? "yes" : "no";
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// What the service answered instead of what was asked for.
export class Refused extends Error {
  constructor(answer, problem) {
    super(problem.detail ?? problem.title ?? `The service answers ${answer.status}.`);
    this.code = problem.code;
    this.wantsKey = answer.status === 401 || answer.status === 403;
    this.waitMs = 1000 * (Number(answer.headers.get("retry-after")) || 0);
  }
}

// Asks with the key, if there is one; throws `Refused`, or whatever the browser says of a service
// that is not there.
export async function request(address, signal) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const answer = await fetch(address, { headers, signal, cache: "no-store" });
  if (answer.ok) return answer;
  throw new Refused(answer, await answer.json().catch(() => ({})));
}

export const ask = async (address) => (await request(address, AbortSignal.timeout(PATIENCE_MS))).json();

// Shows why a key is asked for, and waits until another one was entered.
export function anotherKey(refused) {
  byId("key-said").textContent = {
    api_key_missing: "This service asks for an API key. It is kept in this tab only, until the tab is closed.",
    api_key_invalid: "This API key does not work: it is wrong, was revoked or has expired.",
  }[refused.code] ?? refused.message;
  byId("key-form").hidden = false;
  byId("forget").hidden = true;
  linkIs("lost", "needs an API key");
  notice("");
  return new Promise((entered) => {
    byId("key-form").addEventListener("submit", () => entered(), { once: true });
  });
}

function takeKey(event) {
  const key = byId("key").value.trim();
  if (!SENDABLE.test(key)) {
    event.stopImmediatePropagation();
    byId("key-said").textContent = "This is no API key: one looks like sb_0123456789ab_ and 64 more characters.";
    return;
  }
  sessionStorage.setItem(KEY, key);
  byId("key").value = "";
  byId("key-form").hidden = true;
  byId("forget").hidden = false;
  linkIs("connecting", "connecting");
}

// Reads server-sent events; of several that came at once only the latest is of now. A browser's
// own reader of them cannot send a key.
async function follow(address, signal, tell) {
  const answer = await request(address, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    const latest = events.filter((each) => each.startsWith("data: ")).pop();
    if (latest) tell(latest.slice("data: ".length));
  }
}

const isSeen = () => !document.hidden;
const seen = () => new Promise((done) => {
  document.addEventListener("visibilitychange", () => isSeen() && done(), { once: true });
});

// Tells `show` of each snapshot, and `lost` when none comes; connects again for ever, while
// somebody looks.
export async function listen(show, lost) {
  let heard = performance.now();
  let following = new AbortController();
  const tell = (text) => {
    heard = performance.now();
    try {
      show(JSON.parse(text));
    } catch (error) {
      reportError(error);
    }
  };
  setInterval(() => {
    if (performance.now() - heard > SILENCE_MS) following.abort();
  }, 500);
  document.addEventListener("visibilitychange", () => { if (!isSeen()) following.abort(); });
  for (;;) {
    while (!isSeen()) await seen();
    heard = performance.now();
    following = new AbortController();
    let waitMs = RECONNECT_MS;
    try {
      await follow("/api/v1/live", following.signal, tell);
    } catch (error) {
      if (error instanceof Refused && error.wantsKey) {
        await anotherKey(error);
        continue;
      }
      if (isSeen()) lost(error instanceof Refused ? error.message : "");
      waitMs = Math.max(waitMs, error.waitMs ?? 0);
    }
    await pause(waitMs);
  }
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  takeKey(event);
});
byId("forget").hidden = !sessionStorage.getItem(KEY);
byId("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  location.reload();
});
byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = byId("find-account").value.trim();
  if (wanted) location.href = `/accounts/${encodeURIComponent(wanted)}`;
});
