// npm's ai with @ai-sdk/openai-compatible: texts, streams, tools in several steps, objects, reasoning.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [url, name, kind] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "coldforge", baseURL: `${url}/v1`, supportsStructuredOutputs: true });
const model = provider(name);
const common = { model, temperature: 0, maxRetries: 0 };

if (kind === "real") {
  const prompt = "What is the capital of France?";
  const { text } = await generateText({ ...common, prompt, maxOutputTokens: 24 });
  let streamed = "";
  for await (const piece of streamText({ ...common, prompt, maxOutputTokens: 24 }).textStream) streamed += piece;
  console.log(JSON.stringify({ answers: [text, streamed] }));
  process.exit(0);
}

assert.equal((await generateText({ ...common, prompt: "emoji" })).text, "你好 😀!");

let streamed = "";
for await (const piece of streamText({ ...common, prompt: "count" }).textStream) streamed += piece;
assert.equal(streamed, "one two three four five six seven");

const cities = [];
const get_weather = tool({
  description: "The weather of a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => (cities.push(city), "21"),
});
const stopWhen = stepCountIs(3);
const called = await generateText({ ...common, prompt: "The weather?", tools: { get_weather }, stopWhen });
assert.equal(called.text, "It is 21 degrees.");
assert.deepEqual(cities, ["Paris"]);

const stream = streamText({ ...common, prompt: "two cities", tools: { get_weather }, stopWhen });
assert.equal(await stream.text, "It is 21 degrees.");
assert.deepEqual(cities, ["Paris", "Paris", "Rome"]);

const schema = z.object({ name: z.string(), age: z.number().int() });
const { output } = await generateText({ ...common, prompt: "A person", output: Output.object({ schema }) });
assert.deepEqual(output, { name: "Ada", age: 36 });

const thought = await generateText({ ...common, prompt: "think" });
assert.equal(thought.reasoningText, "Two and two.");
assert.equal(thought.text, "Four.");
const usage = (await streamText({ ...common, prompt: "emoji" }).usage) ?? {};
console.log(JSON.stringify({ ok: true, usage }));
