"use strict";
// The form "entry" with a name, a password and two buttons, what is "inside", and "leave". Pages
// listen for "entered" and "left" on the document.
const $ = (id) => document.getElementById(id);

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

async function enter() {
  const answer = await fetch("/me");
  $("entry").hidden = answer.ok;
  $("inside").hidden = !answer.ok;
  if (!answer.ok) return;
  $("who").textContent = await answer.json();
  document.dispatchEvent(new Event("entered"));
}

// What people and models said is put in as text (textContent), never as HTML.
function show(kind, text) {
  const line = document.createElement("li");
  line.className = kind;
  line.textContent = text;
  $("said").append(line);
  return line;
}

$("entry").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { name, password } = Object.fromEntries(new FormData(event.target));
  await send("POST", `/${event.submitter.value}`, { name, password });
  event.target.reset();
  await enter();
});

$("leave").addEventListener("click", async () => {
  await send("POST", "/logout");
  $("said").replaceChildren();
  document.dispatchEvent(new Event("left"));
  await enter();
});

enter();
