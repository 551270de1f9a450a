"use strict";
let socket;

const LINES = {
  remembered: ({ text }) => text,
  said: ({ channel, name, text }) => `${channel} · ${name}: ${text}`,
  joined: ({ name }) => `${name} came in.`,
  left: ({ name }) => `${name} went out.`,
  refused: ({ why }) => why,
  failed: () => "The bot has no answer.",
  not_remembered: () => "This is not in your memory.",
};

function goOut() {
  if (socket) socket.close();
  $("said").replaceChildren();
}

document.addEventListener("left", goOut);

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  goOut();
  const room = new FormData(event.target).get("room");
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/rooms/${encodeURIComponent(room)}`);
  socket.addEventListener("message", ({ data }) => {
    const event = JSON.parse(data);
    show(event.kind, LINES[event.kind](event));
  });
});

$("words").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!socket || socket.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify(Object.fromEntries(new FormData(event.target))));
  event.target.elements.text.value = "";
});
