"use strict";
// What people and models said is put in as text (textContent), never as HTML.
const $ = (id) => document.getElementById(id);
let conversation = crypto.randomUUID();

async function send(method, path, body) {
  const options = { method, headers: { "content-type": "application/json" } };
  if (body) options.body = JSON.stringify(body);
  const answer = await fetch(path, options);
  $("problem").textContent = "";
  if (answer.ok) return answer;
  const { detail } = await answer.json();
  const problem = typeof detail === "string" ? detail : "This is too short, too long or misspelt.";
  $("problem").textContent = problem;
  throw new Error(problem);
}

function show(role, text) {
  const line = document.createElement("li");
  line.className = role;
  line.textContent = text;
  $("said").append(line);
  return line;
}

// Server-sent events of a POST, which EventSource does not do: blocks that end with an empty line.
async function* events(answer) {
  let rest = "";
  for await (const bytes of answer.body.pipeThrough(new TextDecoderStream())) {
    rest += bytes;
    const blocks = rest.split("\n\n");
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

async function enter() {
  const answer = await fetch("/me");
  $("entry").hidden = answer.ok;
  $("inside").hidden = !answer.ok;
  if (!answer.ok) return;
  $("who").textContent = await answer.json();
  await list();
}

$("entry").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { name, password } = Object.fromEntries(new FormData(event.target));
  await send("POST", `/${event.submitter.value}`, { name, password });
  event.target.reset();
  await enter();
});

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

$("new").addEventListener("click", () => {
  conversation = crypto.randomUUID();
  $("said").replaceChildren();
});

$("leave").addEventListener("click", async () => {
  await send("POST", "/logout");
  $("said").replaceChildren();
  await enter();
});

enter();
