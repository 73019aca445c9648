// The chat page's behaviour: shows one conversation, its connection and its counters, and lets you break the network.

import { EverpostClient } from "./client.js";

const MOST_SHOWN = 500;
const BURST = { size: 100, everyMs: 60 };
const TYPING = { sendMs: 2000, showMs: 9000 }; // the server ends it sooner
const TICKS = { sending: "◌", accepted: "✓", stored: "✓", delivered: "✓✓", read: "✓✓", failed: "✗" };
const OPEN = ["accepted", "stored", "delivered"]; // what may still become more
const LIST_MS = 1000;
const SAYS = { connecting: "connecting…", open: "connected", waiting: "reconnecting…", dropped: "you are offline" };
const NO_TOKEN = "That does not look like a token, which has three parts with dots between.";

const $ = (id) => document.getElementById(id);
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

// Who and where: from the link's fragment, which never leaves the browser, then from this tab's storage.

function adopt(fields) {
  const given = ["token", "conversation"].filter((name) => fields.get(name)?.trim());
  for (const name of given) sessionStorage.setItem(`everpost.${name}`, fields.get(name).trim());
}

function adoptFragment() {
  if (!location.hash.includes("token=")) return false;
  adopt(new URLSearchParams(location.hash.slice(1)));
  history.replaceState(null, "", location.pathname);
  return true;
}

/** The user a token speaks for; undefined if it is no token. */
function userOf(token) {
  try {
    const bytes = atob(/^[\w-]+\.([\w-]+)\.[\w-]+$/.exec(token)[1].replaceAll("-", "+").replaceAll("_", "/"));
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(bytes, (char) => char.charCodeAt(0)))).sub;
  } catch {
    return undefined;
  }
}

function welcome(refusal = "") {
  $("welcome").hidden = false;
  $("room").hidden = true;
  $("refusal").hidden = !refusal;
  $("refusal").textContent = refusal;
  $("conversation").value = sessionStorage.getItem("everpost.conversation") ?? "demo";
  $("token").focus();
}

adoptFragment();
addEventListener("hashchange", () => adoptFragment() && location.reload());
$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!userOf($("token").value.trim())) return welcome(NO_TOKEN);
  adopt(new FormData(event.target));
  location.reload();
});

const token = sessionStorage.getItem("everpost.token") ?? "";
const room = sessionStorage.getItem("everpost.conversation") ?? "demo";
const me = userOf(token);
if (me) enter();
else welcome(token && NO_TOKEN);

function enter() {
  const client = new EverpostClient({ token, user: me });
  const [log, messages, pending] = [$("log"), $("messages"), $("pending")];
  /** @type {Map<number, HTMLElement>} */ const rows = new Map(), open = new Map();
  /** @type {Map<string, HTMLElement>} */ const sending = new Map();
  /** @type {Map<string, number>} */ const typists = new Map();
  let queue = [], painting = 0, stuck = true, unread = 0, top = 0, typedAt = 0, listing = 0;

  // Rows: numbered ones in order, below them our own that have no number yet.
  function element(tag, name, ...children) {
    const node = document.createElement(tag);
    node.className = name;
    node.append(...children); // strings become text, never markup
    return node;
  }

  /** @param {{author: string, text: string, at?: string | number, seq?: number}} line */
  function bubble({ author, text, at, seq }) {
    const when = new Date(at ?? Date.now());
    const hue = [...author].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 6, 0);
    const face = element("span", `face hue-${hue}`, [...author][0].toUpperCase());
    const time = element("time", "", clock.format(when));
    const tick = element("span", "tick");
    const meta = element("span", "meta", element("span", "seq", seq ? `#${seq}` : ""), time, tick);
    const line = element("div", "line", element("p", "text", text), meta);
    const body = element("div", "bubble", element("strong", "author", author), line);
    const row = element("li", author === me ? "row mine" : "row", face, body);
    face.setAttribute("aria-hidden", "true");
    Object.assign(time, { dateTime: when.toISOString(), title: calendar.format(when) });
    Object.assign(row.dataset, { author, seq: seq ?? "", minute: Math.floor(when / 60_000) });
    return row;
  }

  /** Puts a numbered row in its place; neighbours of one author and minute share a face. */
  function place(row) {
    let before = messages.lastElementChild;
    while (before && Number(before.dataset.seq) > Number(row.dataset.seq)) before = before.previousElementSibling;
    before ? before.after(row) : messages.prepend(row);
    for (const one of [row, row.nextElementSibling]) {
      const above = one?.previousElementSibling?.dataset ?? {};
      const joined = above.author && above.author === one.dataset.author && above.minute === one.dataset.minute;
      one?.classList.toggle("joined", Boolean(joined));
    }
    if (row.dataset.author) rows.set(Number(row.dataset.seq), row);
  }

  function note(text, kind = "") {
    const row = element("li", `note ${kind}`, text);
    row.dataset.seq = String(top);
    place(row);
  }

  function mark(row, state, label = state) {
    const tick = row.querySelector(".tick");
    Object.assign(tick, { textContent: TICKS[state], title: label, role: "img", ariaLabel: label });
    tick.dataset.label = label;
    row.dataset.state = state;
    open.delete(Number(row.dataset.seq));
    if (OPEN.includes(state)) open.set(Number(row.dataset.seq), row);
  }

  /** Ticks what the others have got and read meanwhile. */
  function tick() {
    const { delivered, read } = client.marks.get(room)?.reached(me) ?? { delivered: 0, read: 0 };
    for (const [seq, row] of open) {
      if (seq <= read) mark(row, "read");
      else if (seq <= delivered && row.dataset.state !== "delivered") mark(row, "delivered");
    }
  }

  /** Takes a row from those being sent and gives it its number. */
  function numbered(row, seq) {
    sending.delete(row.dataset.id);
    row.dataset.seq = String(seq);
    row.querySelector(".seq").textContent = `#${seq}`;
    return row;
  }

  /** Shows what has a number: a message, or by its name any other event of the conversation. */
  function show(data, seq, event = "new_message", state = "accepted") {
    if (rows.has(seq)) return;
    const author = data.sender_id || "everpost";
    const content = data.content?.text ?? data.content?.url ?? JSON.stringify(data.content ?? {});
    const text = event === "new_message" ? content : `${event.replaceAll("_", " ")} ${data.reason ?? ""}`;
    const ours = author === me && sending.get(data.extra_metadata?.client_id);
    const row = ours ? numbered(ours, seq) : bubble({ author, text, at: data.created_at, seq });
    row.classList.toggle("event", event !== "new_message");
    top = Math.max(top, seq);
    place(row);
    if (author === me) mark(row, state);
    else if (!stuck) unread += 1;
    typists.delete(author);
  }

  function outboxChanged({ entry: { id, text, at, seq, durability }, change, error }) {
    const row = sending.get(id);
    if (change === "queued") {
      const fresh = bubble({ author: me, text, at });
      fresh.dataset.id = id;
      sending.set(id, fresh);
      pending.append(fresh);
      mark(fresh, "sending");
    } else if (change === "failed") {
      if (row) mark(row, "failed", `not accepted: ${error}`);
    } else {
      if (row && rows.has(seq)) numbered(row, seq).remove();
      else if (row) place(numbered(row, seq));
      top = Math.max(top, seq);
      const settled = rows.get(seq);
      if (!settled || ["stored", "delivered", "read"].includes(settled.dataset.state)) return;
      if (durability === "stored") mark(settled, "stored");
      else mark(settled, "accepted", `accepted (${durability})`);
    }
  }

  /** Rendering waits for the next frame, so that a thousand messages cost one layout. */
  function later(work) {
    if (work) queue.push(work);
    if (document.hidden && queue.length > 2 * MOST_SHOWN) paint(); // hidden pages get no frames
    painting ||= requestAnimationFrame(paint);
  }

  function paint() {
    painting = 0;
    for (const work of queue.splice(0)) work();
    tick();
    if (stuck && !document.hidden) client.read(room, top);
    for (let extra = messages.childElementCount - MOST_SHOWN; extra > 0; extra--) forget(messages.firstElementChild);
    for (const [name, count] of Object.entries(client.tally(room).counts())) {
      $(name).textContent = count.toLocaleString("en");
      $(name).classList.toggle("bad", count > 0);
    }
    const waiting = client.outbox.waiting(room).length;
    $("waiting").textContent = waiting ? `${waiting} waiting for the server` : "";
    $("typing").textContent = [...typists.keys()].map((name) => `${name} is typing…`).join(" ");
    if (stuck) log.scrollTop = log.scrollHeight;
    $("jump").hidden = stuck;
    $("jump").lastElementChild.textContent = unread ? `${unread} new` : "latest";
  }

  function forget(row) {
    row.remove();
    if (row.dataset.author) for (const map of [rows, open]) map.delete(Number(row.dataset.seq));
  }

  // What the client reports.

  const on = (type, handle) => client.addEventListener(type, ({ detail }) => handle(detail));

  on("counts", () => later());
  on("message", ({ frame }) =>
    frame.conversation_id === room ? later(() => show(frame.data, frame.seq, frame.event)) : list());
  on("outbox", (detail) => detail.entry.conversation_id === room && later(() => outboxChanged(detail)));
  on("stored", ({ conversation_id, up_to }) => conversation_id === room && later(() => {
    for (const [seq, row] of open) if (seq <= up_to && row.dataset.state === "accepted") mark(row, "stored");
  }));
  on("marks", ({ conversation_id, user }) => (conversation_id === room ? later() : user === me && list()));
  on("state", ({ state, instance = "", reason }) => {
    if (state === "connecting" && document.body.dataset.link === "waiting") return; // still the same outage
    document.body.dataset.link = state;
    $("state").textContent = SAYS[state] ?? "refused";
    $("instance").textContent = instance;
    if (state === "open" && !rows.size) recall();
    if (state === "open") list(), client.conversation(room).catch(() => {}); // only ticks would be missing
    if (state === "refused") welcome(`The server refused the connection: ${reason}.`);
    later(() => typists.clear());
  });
  on("event", ({ event, conversation_id, data }) => {
    if (event === "error") return later(() => note(`⚠ ${data.message ?? data.code}`, "warn"));
    if (event !== "typing" || conversation_id !== room || data.user_id === me) return;
    const done = () => later(() => typists.delete(data.user_id));
    clearTimeout(typists.get(data.user_id));
    if (data.is_typing === false) return done();
    later(() => typists.set(data.user_id, setTimeout(done, TYPING.showMs)));
  });
  on("replayed", ({ outcome, missed, seconds, reset_from = 1, reason, conversation_id = room }) => later(() => {
    if (outcome === "reset" && conversation_id === room) {
      for (const [seq, row] of rows) if (seq >= reset_from) forget(row);
      top = Math.min(top, reset_from - 1);
      const why = reason ?? "its log changed";
      note(`⚠ The server could not go on from where you were (${why}): #${reset_from} and later start anew.`, "warn");
      recall();
    } else if (seconds >= 1 || (seconds && missed)) {
      const what = missed ? `${missed} missed message${missed === 1 ? "" : "s"} replayed` : "nothing missed";
      note(`↻ back after ${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s: ${what}`);
    }
  }));

  async function recall() {
    const found = await client.history(room).catch((error) => later(() => note(`⚠ ${error.message}`, "warn")));
    if (found) later(() => found.forEach((message) => show(message, message.seq, message.event, "stored")));
  }

  /** Shows what is unread in the other conversations; asked for once, however much happens there. */
  function list() {
    listing ||= setTimeout(async () => {
      const found = await client.conversations().catch(() => []);
      listing = 0;
      $("others").replaceChildren(...found.filter(({ id }) => id !== room).map(other));
    }, LIST_MS);
  }

  function other({ id, title, unread_count }) {
    const count = unread_count ? [element("span", "count", unread_count > 99 ? "99+" : String(unread_count))] : [];
    const button = element("button", "other", title ?? id, ...count);
    button.title = `${unread_count} unread`;
    button.addEventListener("click", () => {
      sessionStorage.setItem("everpost.conversation", id);
      location.reload();
    });
    return button;
  }

  // What you do.

  const typing = (is_typing) => client.write({ type: "typing", conversation_id: room, is_typing });
  const say = (text) => {
    try { return client.send(room, text); } catch (error) { note(`⚠ ${error.message}`, "warn"); }
  };

  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("text").value.trim();
    if (!text || !say(text)) return;
    $("text").value = "";
    stuck = true;
    typedAt = 0;
    typing(false);
  });
  $("text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("composer").requestSubmit();
  });
  $("text").addEventListener("input", () => {
    if (Date.now() - typedAt >= TYPING.sendMs) (typedAt = Date.now()), typing(true);
  });
  log.addEventListener("scroll", () => {
    stuck = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    if (stuck) unread = 0;
    $("jump").hidden = stuck;
  });
  $("jump").addEventListener("click", () => later(() => ((stuck = true), (unread = 0))));
  $("network").addEventListener("click", ({ target }) => {
    const drop = document.body.dataset.link !== "dropped";
    target.textContent = drop ? "Restore my network" : "Drop my network";
    client[drop ? "drop" : "connect"]();
  });
  $("burst").addEventListener("click", ({ target }) => {
    const began = Date.now();
    let sent = 0;
    stuck = target.disabled = true;
    const timer = setInterval(() => {
      const due = Math.min(BURST.size, (Date.now() - began) / BURST.everyMs); // by the clock: hidden tabs tick slowly
      while (sent < due && say(`Message ${sent + 1} of ${BURST.size}`)) sent += 1;
      const more = sent >= due && sent < BURST.size;
      target.textContent = more ? `Sending ${sent} / ${BURST.size}` : `Send ${BURST.size}`;
      target.disabled = more;
      if (!more) clearInterval(timer);
    }, BURST.everyMs);
  });

  $("who").textContent = `${me} in ${room}`;
  document.title = `${me} · ${room} · Everpost`;
  $("room").hidden = false;
  for (const entry of client.outbox.waiting(room)) outboxChanged({ entry, change: "queued" });
  document.addEventListener("visibilitychange", () => later());
  new ResizeObserver(() => later()).observe(log);
  client.connect();
  if (matchMedia("(pointer: fine)").matches) $("text").focus({ preventScroll: true });
}
