// Tests of the client's promises: what it counts, what it resends, and how it comes back.
import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { EverpostClient, Marks, Outbox, Tally, afterClose, backoff, uuidv7 } from "./client.js";

const entry = (id, conversation_id = "demo") => ({ id, conversation_id, text: id, at: 0 });
const see = (tally, live, ...seqs) => seqs.map((seq) => tally.see(seq, live));

test("an id is a version 7 UUID that carries its time", () => {
  const id = uuidv7(0x0192_1234_5678);
  assert.match(id, /^01921234-5678-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.notEqual(id, uuidv7(0x0192_1234_5678));
});

test("waiting is jittered over a ceiling that stops at five seconds", () => {
  const ceilings = [0, 1, 2, 5, 50].map((attempt) => backoff(attempt, () => 1));
  assert.deepEqual(ceilings, [300, 600, 1200, 5000, 5000]);
  assert.equal(backoff(3, () => 0), 0);
});

test("close codes say whether and when to come back", () => {
  assert.ok(afterClose(4001).stop && afterClose(4003).stop);
  for (const code of [1001, 1013]) assert.deepEqual(afterClose(code, "reconnect in 1234 ms"), { delay: 1234 });
  for (const code of [1000, 1001, 1006, 1011, 1013, 4008, 4009, 4029]) assert.deepEqual(afterClose(code, ""), {});
});

test("received counts numbers, the first of which may be any", () => {
  const tally = new Tally();
  assert.deepEqual(see(tally, true, 41, 42, 43), [true, true, true]);
  assert.deepEqual(tally.counts(), { received: 3, lost: 0, twice: 0 });
});

test("every repeated frame counts as twice", () => {
  const tally = new Tally();
  assert.deepEqual(see(tally, true, 1, 2, 2, 1), [true, true, false, false]);
  assert.deepEqual(tally.counts(), { received: 2, lost: 0, twice: 2 });
});

test("a hole between live frames is lost until it is filled", () => {
  const tally = new Tally();
  see(tally, true, 1, 5);
  assert.deepEqual(tally.counts(), { received: 2, lost: 3, twice: 0 });
  see(tally, true, 3);
  assert.equal(tally.counts().lost, 2);
});

test("a hole within a replay is lost only when a live frame follows it", () => {
  const tally = new Tally();
  see(tally, true, 1);
  see(tally, false, 2, 5, 6);
  assert.equal(tally.counts().lost, 0);
  see(tally, false, 3, 4);
  see(tally, false, 8);
  see(tally, true, 9);
  assert.deepEqual(tally.counts(), { received: 8, lost: 1, twice: 0 });
});

test("one message under two numbers counts as twice", () => {
  const tally = new Tally();
  tally.see(1, true, "alice a");
  tally.see(2, true, "alice a");
  tally.see(3, true, "bob a");
  assert.deepEqual(tally.counts(), { received: 3, lost: 0, twice: 1 });
});

test("a reset forgets what no longer holds, so that it may come again", () => {
  const tally = new Tally();
  see(tally, true, 1, 2, 3, 4);
  tally.reset(3);
  assert.equal(tally.counts().received, 2);
  assert.deepEqual(see(tally, true, 3), [true]);
  tally.reset();
  see(tally, true, 900);
  assert.deepEqual(tally.counts(), { received: 4, lost: 0, twice: 0 });
});

test("counts survive being written down", () => {
  const tally = new Tally();
  see(tally, true, 1, 4, 4);
  tally.see(5, true, "k");
  const restored = new Tally(JSON.parse(JSON.stringify(tally)));
  assert.deepEqual(restored.counts(), tally.counts());
  restored.see(6, true, "k");
  assert.equal(restored.counts().twice, 2);
});

test("marks only move forward, and reading overtakes delivery", () => {
  const marks = new Marks();
  assert.deepEqual(marks.reached("me"), { delivered: 0, read: 0 });
  assert.equal(marks.move("bob", { delivered: 3 }), true);
  assert.equal(marks.move("bob", { delivered: 2 }), false);
  assert.equal(marks.move("bob", { read: 5 }), true);
  marks.move("me", { read: 9 });
  assert.deepEqual(marks.reached("me"), { delivered: 5, read: 5 });
  marks.move("carol", { delivered: 4 });
  assert.deepEqual(marks.reached("me"), { delivered: 4, read: 0 }, "everybody else has it, not everybody has read it");
});

test("the outbox keeps to its depth and its order", () => {
  const outbox = new Outbox([], { depth: 2 });
  for (const id of ["a", "b", "c"]) outbox.add(entry(id));
  assert.deepEqual(outbox.take().map((e) => e.id), ["a", "b"]);
  assert.deepEqual(outbox.take(), []);
  outbox.accepted("b", { seq: 1, durability: "fsync" });
  assert.deepEqual(outbox.take().map((e) => e.id), ["c"]);
});

test("a message stays until it is stored, and goes again after a lost connection", () => {
  const outbox = new Outbox();
  for (const id of ["a", "b", "c"]) outbox.add(entry(id));
  outbox.take();
  outbox.accepted("a", { seq: 1, durability: "fsync" });
  outbox.accepted("b", { seq: 2, durability: "stored" });
  assert.deepEqual(outbox.waiting("demo").map((e) => e.id), ["c"]);
  outbox.rewind();
  assert.deepEqual(outbox.take().map((e) => e.id), ["a", "c"]);
  outbox.stored("other", 9);
  outbox.stored("demo", 1);
  assert.deepEqual([...outbox.entries.keys()], ["c"]);
});

test("an unanswered message goes again with its id, and a restored one too", () => {
  const outbox = new Outbox();
  outbox.add(entry("a"));
  outbox.take(1_000);
  assert.deepEqual(outbox.take(10_000), []);
  assert.equal(outbox.take(20_000)[0].id, "a");
  assert.equal(new Outbox(JSON.parse(JSON.stringify(outbox))).take()[0].id, "a");
});

test("a full outbox says so", () => {
  const outbox = new Outbox([entry("a")], { capacity: 1 });
  assert.throws(() => outbox.add(entry("b")), /full/);
});

// The rest drives a whole client over a socket made of paper.

/** @type {PaperSocket[]} */
let sockets = [];
class PaperSocket {
  readyState = 1;
  sent = [];
  constructor(url, protocols) {
    Object.assign(this, { url: new URL(url), protocols });
    sockets.push(this);
  }
  send(text) { this.sent.push(JSON.parse(text)); }
  close() { this.readyState = 3; }
  says(event, data = {}, rest = {}) { this.onmessage?.({ data: JSON.stringify({ event, data, ...rest }) }); }
  event(seq, id) {
    const data = { seq, sender_id: "bob", extra_metadata: { client_id: id ?? `id-${seq}` } };
    this.says("new_message", data, { conversation_id: "demo", seq, cursor: `c${seq}` });
  }
}

const memory = (items = new Map()) => ({
  getItem: (key) => items.get(key) ?? null,
  setItem: (key, value) => void items.set(key, value),
});

function connected(storage = memory()) {
  const client = new EverpostClient({ token: "t.o.k", user: "alice", base: "http://here/", storage, WebSocket: PaperSocket });
  client.connect();
  sockets.at(-1).says("connected", { cursor: "c0", heartbeat_seconds: 30, instance_id: "i" });
  return client;
}

beforeEach(() => {
  sockets = [];
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_000_000 });
  mock.method(Math, "random", () => 1);
});
afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

test("the token travels as a subprotocol, never in the address", () => {
  connected();
  assert.equal(sockets[0].url.href, "ws://here/v1/ws");
  assert.deepEqual(sockets[0].protocols, ["everpost.v1", "token.t.o.k"]);
});

test("a lost connection comes back at its cursor and resends under the same id", () => {
  const client = connected();
  const id = client.send("demo", "hello");
  sockets[0].event(1);
  sockets[0].onclose({ code: 1006, reason: "" });
  mock.timers.tick(299);
  assert.equal(sockets.length, 1);
  mock.timers.tick(1);
  sockets[1].says("connected", { cursor: "c1" });
  assert.equal(sockets[1].url.searchParams.get("cursor"), "c1");
  assert.deepEqual([sockets[0], sockets[1]].map((s) => s.sent.find((f) => f.type === "message").id), [id, id]);
  sockets[1].says("ack", { seq: 2, durability: "fsync" }, { id });
  assert.equal(client.outbox.waiting("demo").length, 0);
  sockets[1].says("stored", { up_to: 2 }, { conversation_id: "demo" });
  assert.equal(client.outbox.entries.size, 0);
});

test("a replay is announced with what was missed and for how long", () => {
  const client = connected();
  sockets[0].event(1);
  client.drop();
  mock.timers.tick(12_000);
  assert.equal(sockets.length, 1, "a dropped client stays away");
  let note;
  client.addEventListener("replayed", ({ detail }) => (note = detail));
  client.connect();
  sockets[1].says("connected", { cursor: "c1" });
  sockets[1].says("replay_started");
  for (const seq of [2, 3]) sockets[1].event(seq);
  sockets[1].says("replay_finished", { outcome: "complete" });
  assert.equal(note.missed, 2);
  assert.equal(note.seconds, 12);
  assert.deepEqual(client.tally("demo").counts(), { received: 3, lost: 0, twice: 0 });
});

test("a repeat reaches the counters and not the page", () => {
  const client = connected();
  const shown = [];
  client.addEventListener("message", ({ detail }) => shown.push(detail.frame.seq));
  for (const seq of [1, 2, 2]) sockets[0].event(seq);
  assert.deepEqual(shown, [1, 2]);
  assert.equal(client.tally("demo").counts().twice, 1);
});

test("a reset drops what the log no longer has and starts where the server says", () => {
  const client = connected();
  for (const seq of [1, 2, 3]) sockets[0].event(seq);
  sockets[0].onclose({ code: 1006, reason: "" });
  mock.timers.tick(300);
  sockets[1].says("connected", { cursor: "new" });
  sockets[1].says("replay_started", { outcome: "reset", reset_from: 3 }, { conversation_id: "demo" });
  sockets[1].event(3, "another");
  sockets[1].says("replay_finished", { outcome: "reset", reset_from: 3 }, { conversation_id: "demo" });
  assert.deepEqual(client.tally("demo").counts(), { received: 3, lost: 0, twice: 0 });
  assert.equal(client.cursor, "c3");
});

test("a reset of one conversation in the middle of a replay is followed by what is there now", () => {
  const client = connected();
  for (const seq of [1, 2, 3]) sockets[0].event(seq);
  const id = client.send("demo", "accepted and lost");
  sockets[0].says("ack", { seq: 4, durability: "fsync" }, { id });
  const sent = sockets[0].sent.length;
  sockets[0].says("replay_started");
  sockets[0].says("replay_finished", { outcome: "reset", reset_from: 3, cursor: "c2" }, { conversation_id: "demo" });
  assert.equal(client.cursor, "c2");
  assert.equal(sockets[0].sent.length, sent + 1, "it goes again at once");
  assert.equal(sockets[0].sent.at(-1).id, id);
  sockets[0].event(3, "another");
  sockets[0].says("replay_finished", { outcome: "complete" });
  assert.deepEqual(client.tally("demo").counts(), { received: 3, lost: 0, twice: 0 });
});

test("a reload goes on with cursor, counts and outbox", () => {
  const storage = memory();
  const before = connected(storage);
  for (const seq of [7, 9]) sockets[0].event(seq);
  const id = before.send("demo", "unanswered");
  mock.timers.tick(1000);
  before.drop();
  const after = connected(storage);
  assert.equal(sockets[1].url.searchParams.get("cursor"), "c9");
  assert.deepEqual(after.tally("demo").counts(), { received: 2, lost: 1, twice: 0 });
  assert.equal(sockets[1].sent[0].id, id);
});

test("the cursor is acknowledged once a second, and pings are answered", () => {
  connected();
  mock.timers.tick(1000);
  for (const seq of [1, 2, 3]) sockets[0].event(seq);
  sockets[0].says("ping");
  mock.timers.tick(3000);
  assert.deepEqual(sockets[0].sent, [{ type: "ack", cursor: "c0" }, { type: "pong" }, { type: "ack", cursor: "c3" }]);
});

test("what was read is said once, and again after a lost connection", () => {
  const client = connected();
  for (const seq of [2, 5, 5, 3]) client.read("demo", seq);
  const reads = (socket) => socket.sent.filter((frame) => frame.type === "read").map((frame) => frame.seq);
  assert.deepEqual(reads(sockets[0]), [2, 5]);
  sockets[0].onclose({ code: 1006, reason: "" });
  mock.timers.tick(300);
  sockets[1].says("connected", { cursor: "c1" });
  assert.deepEqual(reads(sockets[1]), [5]);
});

test("marks are told as they move", () => {
  const client = connected();
  const told = [];
  client.addEventListener("marks", ({ detail: { user, delivered, read } }) => told.push([user, delivered, read]));
  const room = { conversation_id: "demo" };
  sockets[0].says("message_delivered", { user_id: "bob", up_to: 3 }, room);
  sockets[0].says("message_delivered", { user_id: "bob", up_to: 3 }, room);
  sockets[0].says("message_read", { user_id: "bob", up_to: 2 }, room);
  assert.deepEqual(told, [["bob", 3, undefined], ["bob", undefined, 2]]);
  assert.deepEqual(client.marks.get("demo").reached("alice"), { delivered: 3, read: 2 });
});

test("a heartbeat shows that the last frame is missing, and moves the cursor on when none is", () => {
  const client = connected();
  sockets[0].event(1);
  sockets[0].says("ping", { frames: 1, cursor: "c9" });
  assert.equal(client.cursor, "c9");
  sockets[0].says("ping", { frames: 2, cursor: "c10" });
  assert.equal(sockets.length, 2, "it comes back for what it lacks");
  assert.equal(sockets[1].url.searchParams.get("cursor"), "c9");
  sockets[1].says("connected", { cursor: "c9" });
  sockets[1].says("replay_started");
  sockets[1].event(2);
  sockets[1].says("ping", { frames: 1 });
  sockets[1].says("ping", { frames: 1, cursor: "c99" });
  assert.equal(client.cursor, "c2", "not in the middle of a replay");
  assert.equal(sockets.length, 2);
  assert.deepEqual(client.tally("demo").counts(), { received: 2, lost: 0, twice: 0 });
});

test("silence is taken for a dead connection", () => {
  connected();
  mock.timers.tick(70_000);
  assert.equal(sockets[0].readyState, 1);
  mock.timers.tick(1_000);
  assert.equal(sockets[0].readyState, 3);
  mock.timers.tick(300);
  assert.equal(sockets.length, 2);
});

test("a refusal stops, a named delay is kept to", () => {
  const client = connected();
  sockets[0].onclose({ code: 1001, reason: "reconnect in 1234 ms" });
  mock.timers.tick(1233);
  assert.equal(sockets.length, 1);
  mock.timers.tick(1);
  let state;
  client.addEventListener("state", ({ detail }) => (state = detail.state));
  sockets[1].onclose({ code: 4001, reason: "" });
  mock.timers.tick(60_000);
  assert.equal(sockets.length, 2);
  assert.equal(state, "refused");
});

test("an overloaded server is left alone for as long as it asks", () => {
  const client = connected();
  const id = client.send("demo", "a");
  const tries = () => sockets[0].sent.filter((frame) => frame.id === id).length;
  sockets[0].says("error", { code: "overloaded", retryable: true, retry_after_ms: 4000 }, { id });
  mock.timers.tick(3000);
  assert.equal(tries(), 1);
  mock.timers.tick(2000);
  assert.equal(tries(), 2);
});

test("a refused message is retried or given up, as the error says", () => {
  const client = connected();
  const [later, never] = [client.send("demo", "a"), client.send("demo", "b")];
  const changes = [];
  client.addEventListener("outbox", ({ detail }) => changes.push(`${detail.entry.text} ${detail.change}`));
  sockets[0].says("error", { code: "rate_limited", retryable: true }, { id: later });
  sockets[0].says("error", { code: "invalid", retryable: false }, { id: never });
  assert.deepEqual(changes, ["b failed"]);
  mock.timers.tick(2000);
  assert.equal(sockets[0].sent.filter((frame) => frame.id === later).length, 2);
});
