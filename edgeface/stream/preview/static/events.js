// The newest of what --events keeps, asked for every few seconds; hidden where nothing is kept.

const EVERY_MS = 5000;

export async function watchEvents(section, list) {
  try {
    const answer = await fetch("events.json");
    if (answer.status === 204) {
      return;
    }
    if (answer.ok) {
      list.replaceChildren(...(await answer.json()).map(row));
      section.hidden = false;
    }
  } catch {
    // No connection: the page says so already.
  }
  setTimeout(() => watchEvents(section, list), EVERY_MS);
}

function row(event) {
  const item = document.createElement("li");
  if (event.has_shot) {
    const shot = document.createElement("img");
    shot.src = `shots/${event.id}`;
    shot.alt = "";
    item.append(shot);
  }
  const text = document.createElement("span");
  const mask = event.has_mask === null ? "" : event.has_mask ? ", mask" : ", no mask";
  const seconds = (event.last_seen - event.first_seen).toFixed(1);
  text.textContent = `${new Date(event.first_seen * 1000).toLocaleTimeString()}, ${seconds} s${mask}`;
  item.append(text);
  return item;
}
