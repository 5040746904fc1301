// Shows the newest picture and what was found in it. The page asks for each picture (see "more" in preview/page.py),
// so that on a slow line there are fewer of them and none is old.

import { watchEvents } from "./events.js";
import { draw, paint } from "./overlay.js";
import "./recordings.js";

const RETRY_MS = [500, 1000, 2000, 4000];
const SIZES = [160, 224, 320, 416, 512, 640, 960, 1280];
const ON_THE_WAY = 2;
const CLOCK_SET_S = 3;

const at = (id) => document.getElementById(id);
const picture = at("picture");
const overlay = at("overlay");
const parts = { boxes: true, points: true, pose: true, numbers: true, attributes: true };

let socket = null;
let turn = Promise.resolve(); // one picture after the other: decoders do not finish in order
let failures = 0;
let frame = null;
let state = null;
let clockOffsetS = null; // the server's clock less this one's, at least as far as a message took

function connect() {
  // Relative, since a proxy may serve the page under a path of its own.
  const live = new URL("live", location.href);
  live.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  live.search = live.hash = "";
  let wasOpen = false;
  socket = new WebSocket(live);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    wasOpen = true;
    failures = 0;
    clockOffsetS = null;
    notice("");
    socket.send(JSON.stringify({ more: ON_THE_WAY }));
  };
  socket.onmessage = (event) => {
    if (typeof event.data === "string") {
      said(event.data);
    } else {
      turn = turn.then(() => arrived(event.data)).catch(console.error);
    }
  };
  socket.onclose = async (event) => {
    badge("disconnected", "disconnected");
    notice(event.code === 1013 ? `Not shown: ${event.reason}.` : "No connection to edgeface. Trying again …");
    const reason = wasOpen ? "" : await globalThis.refusal();
    if (reason) {
      badge("disconnected", "refused");
      notice(reason);
    }
    setTimeout(connect, RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]);
  };
}

function said(text) {
  const message = JSON.parse(text);
  if (message.error) {
    notice(message.error);
    settingsShown(state, true);
  }
}

async function arrived(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const jpeg = new Uint8Array(buffer, 4 + length);
  try {
    await show(header, jpeg);
  } finally {
    if (socket.readyState === WebSocket.OPEN) {
      socket.send(JSON.stringify({ more: 1 }));
    }
  }
}

async function show(header, jpeg) {
  state = header.state;
  const offsetS = state.now - Date.now() / 1000;
  // A difference of seconds is no slow message: one of the clocks was set.
  const wasSet = clockOffsetS === null || Math.abs(offsetS - clockOffsetS) > CLOCK_SET_S;
  clockOffsetS = wasSet ? offsetS : Math.max(clockOffsetS, offsetS);
  if (header.frame) {
    const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
    if (picture.width !== bitmap.width || picture.height !== bitmap.height) {
      picture.width = bitmap.width;
      picture.height = bitmap.height;
    }
    picture.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    frame = { ...header.frame, axes: header.axes };
    draw(overlay, frame, parts);
    figures();
  }
  stateShown();
}

function figures() {
  at("fps").textContent = state.fps.toFixed(1);
  at("latency").textContent = ms((Date.now() / 1000 + clockOffsetS - frame.time) * 1000);
  at("result").textContent = ms(frame.latency_ms);
  at("faces").textContent = String(frame.faces.length);
  at("dropped").textContent = String(frame.dropped);
  at("viewers").textContent = String(state.viewers);
  const stages = Object.entries(frame.ms);
  const longest = Math.max(1, ...stages.map(([, value]) => value));
  at("stages").replaceChildren(...stages.map(([name, value]) => bar(name, value, longest)));
  document.body.dataset.frame = String(frame.frame);
}

function bar(name, value, longest) {
  const row = document.createElement("div");
  const label = document.createElement("span");
  const meter = document.createElement("meter");
  const text = document.createElement("span");
  label.textContent = name;
  meter.max = longest;
  meter.value = value;
  text.textContent = ms(value);
  row.append(label, meter, text);
  return row;
}

function stateShown() {
  at("source").textContent = state.source;
  const status = state.status;
  if (status) {
    badge(status.state, status.state);
    notice(status.state === "online" ? "" : `${status.state}: ${status.reason}`);
  }
  const machine = state.machine || {};
  const rows = (machine.temperatures || []).map(({ name, celsius }) => {
    const row = document.createElement("div");
    const label = document.createElement("dt");
    const value = document.createElement("dd");
    label.textContent = name;
    value.textContent = `${celsius.toFixed(0)} °C`;
    row.append(label, value);
    return row;
  });
  at("temperatures").replaceChildren(...rows);
  at("heat").hidden = !machine.throttled;
  at("heat").textContent = machine.throttled ? `throttled: ${machine.throttled}` : "";
  settingsShown(state, false);
}

function settingsShown(now, force) {
  if (!now || !now.settings) {
    at("settings").hidden = true;
    return;
  }
  const { score, size_px: size } = now.settings;
  if (force || document.activeElement !== at("score")) {
    at("score").value = score;
    at("score-value").textContent = score.toFixed(2);
  }
  if (force || document.activeElement !== at("size")) {
    const sizes = [...new Set([...SIZES, size])].sort((a, b) => a - b);
    const offered = [...at("size").options].map((option) => Number(option.value));
    if (String(offered) !== String(sizes)) {
      at("size").replaceChildren(...sizes.map((n) => new Option(`${n} px`, n)));
    }
    at("size").value = String(size);
  }
}

function badge(name, text) {
  at("state").dataset.state = name;
  at("state").textContent = text;
}

function notice(text) {
  at("notice").classList.remove("early");
  at("notice").hidden = !text;
  at("notice").textContent = text;
}

const ms = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

function wish(settings) {
  if (socket.readyState === WebSocket.OPEN) {
    socket.send(JSON.stringify(settings));
  }
}

at("score").addEventListener("input", () => {
  at("score-value").textContent = Number(at("score").value).toFixed(2);
  wish({ score: Number(at("score").value) });
});
at("score").addEventListener("change", () => at("score").blur());
at("size").addEventListener("change", () => {
  wish({ size_px: Number(at("size").value) });
  at("size").blur();
});
for (const input of document.querySelectorAll("input[data-part]")) {
  input.addEventListener("change", () => {
    parts[input.dataset.part] = input.checked;
    draw(overlay, frame, parts);
  });
}
new ResizeObserver(() => draw(overlay, frame, parts)).observe(picture);

at("snapshot").addEventListener("click", () => {
  if (!frame) {
    return;
  }
  const both = document.createElement("canvas");
  both.width = picture.width;
  both.height = picture.height;
  const pen = both.getContext("2d");
  pen.drawImage(picture, 0, 0);
  paint(pen, frame, parts, both.width / frame.width, 1);
  both.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `edgeface-${new Date(frame.time * 1000).toISOString().replace(/[:.]/g, "-")}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
});

notice(""); // it says at first that this script was not loaded
connect();
watchEvents(at("events"), at("event-list"));
