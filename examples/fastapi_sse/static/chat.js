"use strict";
let conversation = crypto.randomUUID();

// Server-sent events of a POST, which EventSource does not do: blocks that end with an empty line.
async function* events(answer) {
  let rest = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const [event, data] = block.split("\n");
      yield { kind: event.slice("event: ".length), text: JSON.parse(data.slice("data: ".length)) };
    }
  }
}

async function open(id) {
  conversation = id;
  $("said").replaceChildren();
  for (const { role, text } of await (await send("GET", `/conversations/${id}`)).json()) {
    show(role, text);
  }
}

async function list() {
  const found = await (await send("GET", "/conversations")).json();
  $("list").replaceChildren(...found.map(({ id, title }) => {
    const button = document.createElement("button");
    button.textContent = title || "Untitled";
    button.addEventListener("click", () => open(id));
    const line = document.createElement("li");
    line.append(button);
    return line;
  }));
}

function begin() {
  conversation = crypto.randomUUID();
  $("said").replaceChildren();
}

document.addEventListener("entered", list);
document.addEventListener("left", begin);
$("new").addEventListener("click", begin);

$("question").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = new FormData(event.target).get("text");
  const answer = await send("POST", `/conversations/${conversation}`, { text });
  event.target.reset();
  show("human", text);
  const line = show("ai", "");
  for await (const { kind, text: part } of events(answer)) {
    if (kind === "part") line.textContent += part;
    if (kind === "failed") $("problem").textContent = "The answer failed. What you said is kept.";
  }
  await list();
});
