"use strict";
// Tables: a click on a head sorts; a second one turns the order round. What is empty stays last.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending", place = head.cellIndex;
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[place].dataset.order;
    const numeric = head.classList.contains("n");
    const compare = (a, b) => numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      return x === "" || y === "" ? (x === "") - (y === "") : (down ? -1 : 1) * compare(x, y);
    });
    body.append(...rows);
    say(`sorted by ${button.textContent}, ${down ? "descending" : "ascending"}`);
  });
}

function say(text) { document.getElementById("said").textContent = text; }

// Players: one sound at a time, from its beginning; the names stay hidden until they are asked for.
const player = new Audio();
player.id = "player";
player.hidden = true;
document.body.append(player);
const sentences = [...document.querySelectorAll(".sentence")];
let here = sentences[0] || null, playing = null;

function show(on) { if (playing) playing.setAttribute("aria-pressed", String(on)); }
for (const [event, on] of [["play", true], ["pause", false], ["ended", false]]) player.addEventListener(event, () => show(on));

function resume() {
  player.play().catch((error) => { if (error.name !== "AbortError") say(`cannot be played: ${error.message}`); });
}

function start(button) {
  show(false);
  playing = button;
  player.src = button.parentElement.querySelector("audio").src;
  resume();
}

function toggle(button) {
  if (button !== playing) start(button);
  else if (player.paused) resume();
  else player.pause();
}

function go(sentence) {
  if (here) here.classList.remove("here");
  here = sentence;
  here.classList.add("here");
}

function reveal(sentence, on) {
  sentence.classList.toggle("revealed", on);
  for (const truth of sentence.querySelectorAll(".truth")) truth.hidden = !on;
  const button = sentence.querySelector(".reveal");
  button.setAttribute("aria-pressed", String(on));
}

for (const sentence of sentences) {
  for (const [i, audio] of [...sentence.querySelectorAll("audio")].entries()) {
    const button = document.createElement("button"), label = audio.previousElementSibling;
    button.type = "button";
    button.className = "play";
    button.textContent = label.textContent;
    button.setAttribute("aria-label", `play ${label.textContent}`);
    button.setAttribute("aria-pressed", "false");
    if (i < 9) button.setAttribute("aria-keyshortcuts", String(i + 1));
    button.addEventListener("click", () => { go(sentence); toggle(button); });
    audio.hidden = label.hidden = true;
    audio.removeAttribute("controls");
    audio.after(button);
  }
  const button = sentence.querySelector(".reveal");
  button.hidden = false;
  button.addEventListener("click", () => reveal(sentence, button.getAttribute("aria-pressed") !== "true"));
}
for (const all of document.querySelectorAll(".all")) {
  all.hidden = false;
  all.addEventListener("click", () => {
    const on = all.getAttribute("aria-pressed") !== "true";
    all.setAttribute("aria-pressed", String(on));
    for (const sentence of all.closest(".part").querySelectorAll(".sentence")) reveal(sentence, on);
  });
}
document.addEventListener("focusin", (event) => {
  const inside = event.target.closest(".sentence");
  if (inside) go(inside);
});
document.addEventListener("keydown", (event) => {
  if (!here || event.ctrlKey || event.metaKey || event.altKey) return;
  const inside = event.target.closest(".sentence"), plays = here.querySelectorAll(".play");
  const control = event.target.closest("button, a, [tabindex='0']"); // these have keys of their own
  if (/^[1-9]$/.test(event.key) && plays[event.key - 1]) {
    plays[event.key - 1].focus();
    start(plays[event.key - 1]);
  } else if (event.key === " " && !control && (playing || inside)) toggle(playing || plays[0]);
  else if (inside && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    const next = sentences[sentences.indexOf(here) + (event.key === "ArrowDown" ? 1 : -1)];
    if (next) next.querySelector("h4").focus();
  } else if (event.key === "r" && (inside || !control)) reveal(here, !here.classList.contains("revealed"));
  else return;
  event.preventDefault();
});
