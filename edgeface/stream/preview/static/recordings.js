// The list of recordings, and a player for the one that is chosen. Where nothing is recorded, there is no list.

const EVERY_MS = 10000;
const at = (id) => document.getElementById(id);

function size(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function row({ name, time, bytes, unfinished }) {
  const item = document.createElement("li");
  const link = document.createElement("a");
  const about = document.createElement("span");
  // Of one that goes on, what there is by now: a video must not grow while it is played.
  link.href = `recordings/${encodeURIComponent(name)}${unfinished ? `?bytes=${bytes}` : ""}`;
  link.textContent = name;
  link.addEventListener("click", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      play(link.href);
    }
  });
  about.textContent = `${new Date(time * 1000).toLocaleString()}, ${size(bytes)}${unfinished ? ", goes on" : ""}`;
  item.append(link, about);
  return item;
}

function play(address) {
  const player = at("player");
  player.hidden = false;
  player.src = address;
  player.play().catch(() => {}); // it shows its own buttons
}

async function refresh() {
  const answer = await fetch("recordings.json").catch(() => null);
  if (answer && answer.status === 404) {
    return; // this run records nothing
  }
  if (answer && answer.ok) {
    const recordings = await answer.json();
    at("recordings").hidden = false;
    at("no-recordings").hidden = recordings.length > 0;
    at("recordings-list").replaceChildren(...recordings.map(row));
  }
  setTimeout(refresh, EVERY_MS);
}

at("player").addEventListener("error", () => {
  at("player-notice").textContent = "This browser does not play it: save it, and open it with another player.";
});
at("player").addEventListener("loadeddata", () => {
  at("player-notice").textContent = "";
});
refresh();
