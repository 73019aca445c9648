// A small Everpost client: keeps one WebSocket alive, resumes where it stopped, resends until accepted, and counts.

/**
 * @typedef {{event: string, conversation_id?: string, seq?: number, cursor?: string, id?: string,
 *            data: Record<string, any>, timestamp?: string}} Frame  what the server sends
 * @typedef {{id: string, conversation_id: string, text: string, at: number, seq?: number, durability?: string,
 *            sent?: number | null}} Entry  a message of ours not known to be stored; `sent`: 0 due, null answered
 */

const REMEMBERED_KEYS = 500, UNANSWERED_MS = 15_000, CONNECT_MS = 10_000;

/** A version 7 UUID: it sorts by time, and the server can read its age. @returns {string} */
export function uuidv7(now = Date.now()) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  for (let i = 0; i < 6; i++) bytes[i] = Math.floor(now / 2 ** (8 * (5 - i))) % 256;
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Full jitter: anywhere between nothing and a ceiling that doubles from 0.3 s to 5 s. */
export const backoff = (attempt, random = Math.random) => random() * Math.min(5000, 300 * 2 ** attempt);

/** Whether a close asks to `stop` for good, and why, or to come back, possibly after a named `delay`. */
export function afterClose(code, reason = "") {
  const refused = { 4001: "the token was refused or has expired", 4003: "access was denied" }[code];
  if (refused) return { stop: reason || refused };
  const named = [1001, 1013].includes(code) && /(\d+)\s*ms/.exec(reason);
  return named ? { delay: Number(named[1]) } : {};
}

/** Counts what arrives in one conversation: sequence numbers received, missing, and seen again. */
export class Tally {
  constructor({ first = 0, high = 0, live = 0, holes = [], twice = 0, keys = [], before = {} } = {}) {
    Object.assign(this, { first, high, live, twice, holes: new Set(holes), keys: new Map(keys) });
    this.before = { received: 0, lost: 0, ...before };
  }

  /** Enters a sequenced frame; `key` names the message itself, so that one message under two numbers is noticed.
   *  @returns {boolean} whether the number is new */
  see(seq, live, key) {
    const fresh = seq > this.high || seq < this.first || this.holes.delete(seq);
    if (!this.high) this.first = this.high = seq;
    for (let n = this.high + 1; n < seq; n++) this.holes.add(n);
    for (let n = seq + 1; n < this.first; n++) this.holes.add(n);
    this.first = Math.min(this.first, seq);
    this.high = Math.max(this.high, seq);
    if (live) this.live = Math.max(this.live, seq);
    if (!fresh || (key && (this.keys.get(key) ?? seq) !== seq)) this.twice += 1;
    if (key && !this.keys.has(key)) this.keys.set(key, seq);
    if (this.keys.size > REMEMBERED_KEYS) this.keys.delete(this.keys.keys().next().value);
    return fresh;
  }

  /** The server said that nothing we have from `from` on holds any more; 0 means that nothing connects at all. */
  reset(from = 0) {
    if (from <= this.first) {
      this.before = this.counts();
      this.first = from = 0;
    }
    this.high = Math.min(this.high, Math.max(0, from - 1));
    this.live = Math.min(this.live, this.high);
    this.holes = new Set([...this.holes].filter((seq) => seq <= this.high));
    this.keys = new Map([...this.keys].filter(([, seq]) => seq <= this.high));
  }

  /** A hole is lost once a live frame came after it; a replay may still be filling the others.
   *  @returns {{received: number, lost: number, twice: number}} */
  counts() {
    const received = (this.high ? this.high - this.first + 1 : 0) - this.holes.size;
    const lost = [...this.holes].filter((seq) => seq < this.live).length;
    return { received: this.before.received + received, lost: this.before.lost + lost, twice: this.twice };
  }

  toJSON() { return { ...this, holes: [...this.holes], keys: [...this.keys] }; }
}

/** How far each participant of a conversation has got and read; marks only move forward. */
export class Marks {
  #of = new Map();

  of(user) { return this.#of.get(user); }

  /** @returns {boolean} whether something is new */
  move(user, { delivered = 0, read = 0 } = {}) {
    const before = this.of(user) ?? { delivered: 0, read: 0 };
    const after = { delivered: Math.max(before.delivered, delivered, read), read: Math.max(before.read, read) };
    this.#of.set(user, after);
    return after.delivered > before.delivered || after.read > before.read;
  }

  /** How far all the others are; 0 as long as nobody is known. @returns {{delivered: number, read: number}} */
  reached(me) {
    const others = [...this.#of].filter(([user]) => user !== me).map(([, marks]) => marks);
    const least = (mark) => (others.length ? Math.min(...others.map((marks) => marks[mark])) : 0);
    return { delivered: least("delivered"), read: least("read") };
  }
}

/** Our messages until the database has them; at most `depth` wait for an answer at a time. */
export class Outbox {
  constructor(saved = [], { depth = 64, capacity = 2000 } = {}) {
    Object.assign(this, { depth, capacity, entries: new Map(saved.map((entry) => [entry.id, { ...entry, sent: 0 }])) });
  }

  add(entry) {
    if (this.entries.size >= this.capacity) throw new RangeError("The outbox is full: wait for the server to come back.");
    this.entries.set(entry.id, { ...entry, sent: 0 });
  }

  /** Takes what may go on the wire now, oldest first. @returns {Entry[]} */
  take(now = Date.now()) {
    const all = this.toJSON();
    for (const entry of all) if (entry.sent && now - entry.sent > UNANSWERED_MS) entry.sent = 0;
    const room = this.depth - all.filter((entry) => entry.sent).length;
    const next = all.filter((entry) => entry.sent === 0).slice(0, Math.max(0, room));
    return next.map((entry) => Object.assign(entry, { sent: now }));
  }

  /** After a lost connection all that is not known to be stored goes again: its id makes the repeat harmless. */
  rewind() { for (const entry of this.entries.values()) entry.sent = 0; }

  accepted(id, { seq, durability }) {
    const entry = this.entries.get(id);
    if (entry) Object.assign(entry, { seq, durability, sent: null });
    if (durability === "stored") this.entries.delete(id);
    return entry;
  }

  stored(conversation, upTo) {
    const done = this.toJSON().filter((entry) => entry.conversation_id === conversation && entry.seq <= upTo);
    for (const { id } of done) this.entries.delete(id);
  }

  /** Those of a conversation without an ack. @returns {Entry[]} */
  waiting(name) { return this.toJSON().filter((entry) => entry.conversation_id === name && !entry.seq); }

  toJSON() { return [...this.entries.values()]; }
}

/**
 * One connection for all conversations of a user. Dispatches, with this `detail`:
 * `state` {state: connecting|open|waiting|dropped|refused, …} · `message` {frame, live}, each sequenced frame once ·
 * `event` the frame of anything unsequenced · `outbox` {entry, change: queued|accepted|failed, error?} ·
 * `stored` {conversation_id, up_to} · `marks` {conversation_id, user?, delivered?, read?} · `replayed` {outcome, missed, seconds?, …} · `counts`.
 */
export class EverpostClient extends EventTarget {
  #socket; #timer; #ticker; #replay; #acked; #start; #saving;
  #ready = false; #attempt = 0; #heard = 0; #silence = 0; #pausedUntil = 0; #downSince = 0; #frames = 0;

  /** @param {{token: string, user: string, base?: string, storage?: Storage, WebSocket?: typeof WebSocket}} options */
  constructor({ token, user, base = location.href, storage = sessionStorage, WebSocket = globalThis.WebSocket }) {
    super();
    const key = `everpost.client.${user}`;
    const { cursor, tallies = {}, outbox, at = 0 } = JSON.parse(storage.getItem(key) ?? "{}");
    Object.assign(this, { token, user, base, storage, WebSocket, key, cursor, outbox: new Outbox(outbox) });
    Object.assign(this, { marks: new Map(), reads: new Map() });
    this.tallies = new Map(Object.entries(tallies).map(([name, saved]) => [name, new Tally(saved)]));
    this.#downSince = at;
    globalThis.addEventListener?.("pagehide", () => this.#save());
    globalThis.addEventListener?.("online", () => this.#timer && this.connect());
  }

  connect() {
    this.#detach();
    this.#tell("state", { state: "connecting" });
    const url = new URL("/v1/ws", this.base.replace(/^http/, "ws"));
    if (this.cursor) url.searchParams.set("cursor", this.cursor);
    const socket = (this.#socket = new this.WebSocket(url.href, ["everpost.v1", `token.${this.token}`]));
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    this.#heard = Date.now();
    this.#silence = CONNECT_MS;
    this.#ticker ??= setInterval(() => this.#tick(), 1000);
  }

  /** Plays a lost network: no connection until `connect` is called. */
  drop() {
    this.#detach();
    this.#tell("state", { state: "dropped" });
  }

  /** Puts a text into the outbox, from where it is sent until it is accepted. @returns {string} its id */
  send(conversation_id, text) {
    const entry = { id: uuidv7(), conversation_id, text, at: Date.now() };
    this.outbox.add(entry);
    this.#outboxChanged(entry, "queued");
    this.#pump();
    return entry.id;
  }

  /** Writes a frame that may be lost, such as `typing` or `read`; nothing happens while there is no connection. */
  write(frame) {
    if (this.#ready && this.#socket.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  /** Says that the user has read a conversation up to a number; said again after each reconnect, which is harmless. */
  read(conversation_id, seq) {
    if (seq <= (this.reads.get(conversation_id) ?? 0)) return;
    this.reads.set(conversation_id, seq);
    this.write({ type: "read", conversation_id, seq });
  }

  /** A page of what was said before, oldest first. @returns {Promise<Record<string, any>[]>} */
  async history(name, query = {}) {
    const page = await this.#get(`/${encodeURIComponent(name)}/messages?${new URLSearchParams({ limit: 50, ...query })}`);
    return (page.messages ?? []).sort((a, b) => a.seq - b.seq);
  }

  /** One conversation, with how far everybody is. @returns {Promise<Record<string, any>>} */
  async conversation(name) {
    const found = await this.#get(`/${encodeURIComponent(name)}`);
    const [before, marks] = [this.marks.get(name), new Marks()]; // without those who left
    for (const { user_id, delivered_up_to, read_up_to } of found.marks ?? []) {
      marks.move(user_id, { delivered: delivered_up_to, read: read_up_to });
      marks.move(user_id, before?.of(user_id));
    }
    this.marks.set(name, marks);
    this.#tell("marks", { conversation_id: name });
    return found;
  }

  /** The latest conversations with what is unread in them. @returns {Promise<Record<string, any>[]>} */
  async conversations(limit = 20) { return (await this.#get(`?limit=${limit}`)).conversations ?? []; }

  async #get(path) {
    const url = new URL(`/v1/conversations${path}`, this.base);
    const response = await fetch(url, { headers: { authorization: `Bearer ${this.token}` } });
    if (!response.ok) throw new Error(`the server did not tell what was before (${response.status})`);
    return response.json();
  }

  #moved(conversation_id, user, moved) {
    if (!this.marks.has(conversation_id)) this.marks.set(conversation_id, new Marks());
    if (this.marks.get(conversation_id).move(user, moved)) this.#tell("marks", { conversation_id, user, ...moved });
  }

  /** @returns {Tally} */
  tally(name) { return this.tallies.get(name) ?? this.tallies.set(name, new Tally()).get(name); }

  #receive({ data = {}, ...rest }) {
    const frame = { ...rest, data, conversation_id: rest.conversation_id ?? data.conversation_id };
    this.#heard = Date.now();
    switch (frame.event) {
      case "connected": return this.#connected(data);
      case "ping": return this.#pinged(data);
      case "ack":
        this.#outboxChanged(this.outbox.accepted(frame.id, data), "accepted");
        return this.#pump();
      case "error": return this.#failed(frame);
      case "stored":
        this.outbox.stored(frame.conversation_id, data.up_to);
        return this.#tell("stored", { conversation_id: frame.conversation_id, up_to: data.up_to });
      case "replay_started":
        this.#replay = { missed: 0, reset: data.outcome === "reset" };
        return this.#replay.reset && this.#reset(frame);
      case "replay_finished": return this.#replayed(frame);
      case "message_delivered": return this.#moved(frame.conversation_id, data.user_id, { delivered: data.up_to });
      case "message_read": return this.#moved(frame.conversation_id, data.user_id, { read: data.up_to });
    }
    if (!Number.isInteger(frame.seq)) return this.#tell("event", frame);
    const live = !this.#replay;
    this.#frames += 1;
    if (this.#replay) this.#replay.missed += 1;
    const key = data.extra_metadata?.client_id && `${data.sender_id} ${data.extra_metadata.client_id}`;
    if (this.tally(frame.conversation_id).see(frame.seq, live, key)) this.#tell("message", { frame, live });
    this.cursor = frame.cursor ?? this.cursor; // only now, so that what was not handled is asked for again
    this.#tell("counts");
  }

  /** Frames arrive in order, so whoever has counted fewer than the server gave lacks something: it comes back for it. */
  #pinged({ frames = this.#frames, cursor }) {
    this.write({ type: "pong" });
    if (frames > this.#frames) return this.connect();
    if (!this.#replay) this.cursor = cursor ?? this.cursor; // it moves on while our conversations are silent
  }

  #connected({ cursor, heartbeat_seconds = 30, instance_id }) {
    this.#start = cursor;
    this.cursor ??= cursor;
    this.#attempt = 0;
    this.#silence = (heartbeat_seconds * 2 + 10) * 1000;
    this.#ready = true;
    this.#tell("state", { state: "open", instance: instance_id });
    for (const [conversation_id, seq] of this.reads) this.write({ type: "read", conversation_id, seq });
    this.#pump();
  }

  #replayed({ cursor, conversation_id, data }) {
    if (data.outcome === "reset" && conversation_id && this.#replay?.reset === false) return this.#reset({ conversation_id, data });
    const missed = data.replayed ?? this.#replay?.missed ?? 0;
    if (data.outcome === "reset" && !this.#replay?.reset) this.#reset({ conversation_id, data });
    this.cursor = cursor ?? this.cursor;
    const seconds = this.#downSince && (Date.now() - this.#downSince) / 1000;
    this.#tell("replayed", { ...data, conversation_id, missed, seconds });
    this.#replay = this.#downSince = 0;
  }

  /** The log went back: what it says not to hold is forgotten, and the old cursor with it. */
  #reset({ conversation_id, data }) {
    const concerned = conversation_id ? [conversation_id] : [...this.tallies.keys()];
    for (const name of concerned) this.tally(name).reset(data.reset_from), this.reads.delete(name);
    this.cursor = data.cursor ?? this.#start ?? this.cursor;
    this.outbox.rewind(); // what was accepted may be lost: its id makes the repeat harmless
    this.#pump();
  }

  #failed(frame) {
    const entry = this.outbox.entries.get(frame.id);
    if (!entry) return this.#tell("event", frame);
    if (frame.data.retryable) {
      entry.sent = 0;
      this.#pausedUntil = Date.now() + (frame.data.retry_after_ms ?? 1000); // a later tick sends it again
    } else {
      this.outbox.entries.delete(entry.id);
      this.#outboxChanged(entry, "failed", frame.data.message ?? frame.data.code);
    }
  }

  #pump() {
    if (!this.#ready || Date.now() < this.#pausedUntil) return;
    for (const { id, conversation_id, text } of this.outbox.take()) {
      const extra_metadata = { client_id: id }; // lets whoever receives it notice one message under two numbers
      this.write({ type: "message", id, conversation_id, message_type: "text", content: { text }, extra_metadata });
    }
  }

  #tick() {
    if (this.#socket && Date.now() - this.#heard > this.#silence) return this.#closed(4009);
    if (this.#ready && this.cursor !== this.#acked) this.write({ type: "ack", cursor: (this.#acked = this.cursor) });
    this.#pump();
    this.#save();
  }

  #closed(code, reason) {
    this.#detach();
    const { stop, delay = backoff(this.#attempt++) } = afterClose(code, reason);
    if (stop) return this.#tell("state", { state: "refused", reason: stop });
    this.#timer = setTimeout(() => this.connect(), delay);
    this.#tell("state", { state: "waiting", delay, code });
  }

  #detach() {
    clearTimeout(this.#timer);
    if (this.#ready) this.#downSince = Date.now();
    if (this.#socket) this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket?.close();
    this.#socket = this.#timer = this.#replay = this.#acked = this.#ready = undefined;
    this.#frames = 0;
    this.outbox.rewind();
    this.#save();
  }

  /** Cursor, counts and outbox are one item, so that they agree at whatever moment they are restored from. */
  #save() {
    this.#saving = undefined;
    const { cursor, outbox } = this;
    const at = this.#ready ? Date.now() : this.#downSince;
    const state = JSON.stringify({ cursor, tallies: Object.fromEntries(this.tallies), outbox, at });
    try { this.storage.setItem(this.key, state); } catch {} // full or forbidden: only a reload would suffer
  }

  #outboxChanged(entry, change, error) {
    this.#saving ??= Promise.resolve().then(() => this.#save());
    if (entry) this.#tell("outbox", { entry, change, error });
  }

  #tell(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }
}
