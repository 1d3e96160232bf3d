// Clients in JavaScript, used as their documentation shows. SERVER_URL is a server with the demo model.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';
import OpenAI from 'openai';

const URL = process.env.SERVER_URL;
const QUESTION = 'What is the capital of Norway?';
const ANSWER = 'The capital of Norway is Oslo.';
const MESSAGES = [{ role: 'user', content: QUESTION }];
const openai = new OpenAI({ baseURL: `${URL}/v1`, apiKey: 'none' });

test('openai: an answer', async () => {
  const answer = await openai.chat.completions.create({ model: 'demo', messages: MESSAGES });
  assert.equal(answer.choices[0].message.content, ANSWER);
});

test('openai: a stream with drafts', async () => {
  const diffusion = { drafts: 'text', min_interval_ms: 0 };
  const stream = await openai.chat.completions.create({ model: 'demo', messages: MESSAGES, stream: true, diffusion });
  let text = '';
  for await (const chunk of stream) text += chunk.choices[0].delta.content ?? '';
  assert.equal(text, ANSWER);
});

test('openai: the helper for streams', async () => {
  const stream = openai.chat.completions.stream({ model: 'demo', messages: MESSAGES });
  assert.equal(await stream.finalContent(), ANSWER);
});

test('openai: responses', async () => {
  const answer = await openai.responses.create({ model: 'demo', input: QUESTION });
  assert.equal(answer.output_text, ANSWER);
});

test('anthropic: an answer and a stream', async () => {
  const client = new Anthropic({ baseURL: URL, apiKey: 'none' });
  const ask = { model: 'demo', max_tokens: 64, messages: MESSAGES };
  assert.equal((await client.messages.create(ask)).content[0].text, ANSWER);
  assert.equal(await client.messages.stream(ask).finalText(), ANSWER);
});

test('ai: an answer and a stream', async () => {
  const model = createOpenAICompatible({ name: 'demo', baseURL: `${URL}/v1` })('demo');
  assert.equal((await generateText({ model, prompt: QUESTION })).text, ANSWER);
  let text = '';
  for await (const part of streamText({ model, prompt: QUESTION }).textStream) text += part;
  assert.equal(text, ANSWER);
});
