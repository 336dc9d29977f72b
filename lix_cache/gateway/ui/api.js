// What the gateway says. The admin key is kept in this tab and goes out in a header, never in an address.

const PLACE = "lix-cache-admin-key";

export class Failed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(PLACE) || "",
  set: (text) => sessionStorage.setItem(PLACE, text),
  forget: () => sessionStorage.removeItem(PLACE),
};

async function ask(path, options) {
  let response;
  try {
    response = await fetch(`/admin/${path}`, {
      ...options,
      cache: "no-store",
      credentials: "omit",
      headers: { authorization: `Bearer ${key.get()}`, ...(options && options.headers) },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failed(0, "The gateway does not answer. Is it still running?");
  }
  let value = null;
  try {
    value = await response.json();
  } catch {
    throw new Failed(response.status, `The gateway answered ${response.status} and no JSON.`);
  }
  if (!response.ok) {
    const said = value && value.error && typeof value.error.message === "string" ? value.error.message : "";
    throw new Failed(response.status, said || `The gateway answered ${response.status}.`);
  }
  return value;
}

export function get(path, values, signal) {
  const query = new URLSearchParams(Object.entries(values || {}).filter(([, value]) => value));
  return ask(query.size ? `${path}?${query}` : path, { signal });
}

export function post(path, value) {
  return ask(path, {
    method: "POST", body: JSON.stringify(value), headers: { "content-type": "application/json" },
  });
}

// The scripted provider of --demo: asked as any client would, without a key.
export async function askDemo(question, session) {
  const began = performance.now();
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    credentials: "omit",
    headers: { "content-type": "application/json", ...(session ? { "x-session-id": session } : {}) },
    body: JSON.stringify({ model: "demo", messages: [{ role: "user", content: question }] }),
  });
  if (!response.ok) throw new Failed(response.status, `The demo answered ${response.status}.`);
  await response.json();
  return {
    cache: response.headers.get("x-lix-cache") || "",
    reason: response.headers.get("x-lix-cache-reason") || "",
    seconds: (performance.now() - began) / 1000,
  };
}
