// The official npm SDKs, by the same lines of JSON as drive.py.
import * as readline from "node:readline";
import OpenAI from "openai";
import Anthropic from "@anthropic-ai/sdk";

const openai = (url) => new OpenAI({ apiKey: "sk-1", baseURL: `${url}/v1`, maxRetries: 0 });
const claude = (url) => new Anthropic({ apiKey: "sk-1", baseURL: url, maxRetries: 0 });
const turns = (text) => [{ role: "user", content: text }];
const all = async (stream) => {
  const found = [];
  for await (const one of stream) found.push(one);
  return found;
};
const chatTool = {
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
};
const responseTool = { type: "function", name: "weather", parameters: { type: "object" }, strict: false };
const messageTool = { name: "weather", input_schema: { type: "object" } };
const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const chat = (url, q, more) => openai(url).chat.completions.create({ model: "m-1", messages: turns(q), ...more });
const response = (url, q, more) => openai(url).responses.create({ model: "m-1", input: q, store: false, ...more });
const message = (url, q, more) =>
  claude(url).messages.create({ model: "m-1", max_tokens: 100, messages: turns(q), ...more });

const cases = {
  "chat whole": (url, q) => chat(url, q),
  "chat stream": async (url, q) => all(await chat(url, q, { stream: true })),
  "chat tools": (url, q) => chat(url, q, { tools: [chatTool] }),
  "chat tools stream": async (url, q) => all(await chat(url, q, { tools: [chatTool], stream: true })),
  "chat structured": (url, q) =>
    openai(url).chat.completions.parse({
      model: "m-1",
      messages: turns(q),
      response_format: { type: "json_schema", json_schema: { name: "city", schema, strict: true } },
    }),
  "chat helper": (url, q) =>
    openai(url).chat.completions.stream({ model: "m-1", messages: turns(q) }).finalChatCompletion(),
  "responses whole": (url, q) => response(url, q),
  "responses stream": async (url, q) => all(await response(url, q, { stream: true })),
  "responses tools": (url, q) => response(url, q, { tools: [responseTool] }),
  "responses tools stream": async (url, q) => all(await response(url, q, { tools: [responseTool], stream: true })),
  "embeddings": (url, q) => openai(url).embeddings.create({ model: "m-e", input: [q, "another"] }),
  "messages whole": (url, q) => message(url, q),
  "messages stream": async (url, q) => all(await message(url, q, { stream: true })),
  "messages tools": (url, q) => message(url, q, { tools: [messageTool] }),
  "messages tools stream": async (url, q) => all(await message(url, q, { tools: [messageTool], stream: true })),
  "messages helper": (url, q) =>
    claude(url).messages.stream({ model: "m-1", max_tokens: 100, messages: turns(q) }).finalMessage(),
};

console.log(JSON.stringify(Object.keys(cases).sort()));
for await (const line of readline.createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  let said;
  try {
    said = { ok: await cases[asked.case](asked.url, asked.question) };
  } catch (error) {
    said = { error: error.constructor.name, status: error.status ?? null };
    if (process.argv.includes("-v")) throw error;
  }
  console.log(JSON.stringify(said));
}
