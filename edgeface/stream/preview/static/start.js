// Loads the page's script, or says why it is refused. A classic script, which browsers ask for without an Origin: so it
// comes even where the server does not let the page in, as behind a proxy whose name it was not told.

// Why the server does not let this page in, empty where it does: a refused script or WebSocket says nothing itself.
globalThis.refusal = async () => {
  try {
    const answer = await fetch("faces.json", { headers: { "X-Page-Origin": location.origin } });
    return answer.ok ? "" : (await answer.text()).trim();
  } catch {
    return "";
  }
};

const script = document.createElement("script");
script.type = "module";
script.src = "page.js";
script.onerror = async () => {
  const reason = await globalThis.refusal();
  const notice = document.getElementById("notice");
  notice.textContent = reason || "The page's script does not load. Is edgeface still there? Load the page again.";
  notice.classList.remove("early");
  document.getElementById("state").dataset.state = "disconnected";
  document.getElementById("state").textContent = reason ? "refused" : "disconnected";
};
document.head.append(script);
