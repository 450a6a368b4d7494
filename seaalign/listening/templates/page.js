"use strict";
// One rater, one page: hear a clip to its end, judge it, go on. Answers are kept after each one.
(() => {
  const $ = (id) => document.getElementById(id);
  const test = JSON.parse($("test").textContent);
  const page = document.querySelector("meta[name=page]").content;
  const words = test.words;
  const shelf = ["seaalign", test.test, test.rater, page].join(" ");
  const trials = test.sections.flatMap((part) => part.trials.map((trial) => ({ ...trial, test: part.test })));
  const fresh = () => ({ answers: {}, seen: [], comment: "", started: null, finished: null });
  let state = fresh();
  let current = null; // the trial on screen: players, time, which clips were heard to the end
  let keeps = true;

  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const now = () => new Date().toISOString();

  // ---- keeping: in the browser, or in a file where the browser refuses
  function keep() {
    try {
      const kept = JSON.parse(localStorage.getItem(shelf)); // another tab may have gone on
      if (kept && kept.answers) state.answers = { ...kept.answers, ...state.answers };
      localStorage.setItem(shelf, JSON.stringify(state));
      keeps = true;
    } catch {
      keeps = false;
      say(words.no_storage);
    }
  }
  function fetchKept() {
    try {
      const found = JSON.parse(localStorage.getItem(shelf));
      if (found && found.answers) state = { ...fresh(), ...found };
    } catch {
      keeps = false;
      say(words.no_storage);
    }
  }
  function say(text, good) {
    $("notice").hidden = !text;
    $("notice").textContent = text || "";
    $("notice").classList.toggle("good", Boolean(good));
  }
  function checksum(text) { // FNV-1a, 32 bits: finds a file that was changed by accident
    let hash = 0x811c9dc5;
    for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
    return hash.toString(16).padStart(8, "0");
  }
  function result() {
    const answers = trials.filter((t) => t.id in state.answers).map((t) => ({ trial: t.id, ...state.answers[t.id] }));
    const spelled = [test.test, test.rater, page, ...answers.map((a) => `${a.trial}=${a.answer}`)].join(";");
    return {
      kind: "listening result", version: 1, test: test.test, rater: test.rater, page,
      complete: answers.length === trials.length, started: state.started, finished: state.finished,
      comment: state.comment, answers, checksum: checksum(spelled),
    };
  }
  function download() {
    const made = result();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(made, null, 1)], { type: "application/json" }));
    link.download = `result-${test.test}-rater-${test.rater}${made.complete ? "" : "-part"}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  async function load(file) {
    try {
      const found = JSON.parse(await file.text());
      if (found.test !== test.test || found.rater !== test.rater || found.page !== page) throw new Error("another page");
      const known = new Set(trials.map((t) => t.id));
      const kept = { ...fresh(), answers: { ...state.answers } }; // an older file takes nothing away
      for (const { trial, ...rest } of found.answers) if (known.has(trial)) kept.answers[trial] = rest;
      kept.seen = test.sections.filter((part) => part.trials.some((t) => t.id in kept.answers)).map((part) => part.test);
      state = { ...kept, started: found.started, finished: found.finished, comment: String(found.comment || state.comment) };
      say(words.loaded, true);
      keep();
      show();
    } catch {
      say(words.wrong_file);
    }
  }

  // ---- which screen
  function show() {
    stop();
    current = null;
    const next = trials.find((trial) => !(trial.id in state.answers));
    if (!next) finish();
    else if (!state.seen.length) reveal("intro");
    else if (!state.seen.includes(next.test)) part(next.test);
    else judge(next);
  }
  function reveal(name, focus) {
    for (const id of ["intro", "part", "trial", "end"]) $(id).hidden = id !== name;
    if (focus) focus.focus();
    window.scrollTo(0, 0);
  }
  function part(name) {
    $("part-title").textContent = words[name].title;
    $("part-about").textContent = words[name].about;
    $("go").onclick = () => { state.seen.push(name); keep(); show(); };
    reveal("part", $("go"));
  }
  function finish() {
    if (!state.finished) {
      state.finished = now();
      keep();
    }
    $("comment").value = state.comment;
    reveal("end", $("end-title"));
  }

  // ---- one trial
  function judge(trial) {
    const pair = trial.test === "ab";
    const names = pair ? [words.clip_a, words.clip_b] : [words.clip, words.reference];
    current = { trial, since: performance.now(), plays: 0, heard: new Set(), players: [] };
    $("players").replaceChildren();
    trial.sounds.forEach((sound, i) => addPlayer(sound, names[i], i, !pair && i === 1));
    const index = trials.indexOf(trial);
    $("count").textContent = fill(words.count, { i: index + 1, n: trials.length });
    $("progress").max = trials.length;
    $("progress").value = index;
    $("question").textContent = words[trial.test].question;
    const options = pair
      ? [["1", "left", words.ab.a], ["2", "right", words.ab.b], ...(test.ties ? [["3", "same", words.ab.same]] : [])]
      : words[trial.test].scale.map((text, i) => [String(5 - i), String(5 - i), text]);
    $("options").className = "options " + (pair ? "pair" : "scale");
    $("options").replaceChildren(...options.map(option));
    $("choices").disabled = true;
    $("next").disabled = true;
    $("hint").textContent = words.listen_first;
    reveal("trial", $("players").querySelector("button"));
  }
  function option([key, value, text]) {
    const label = document.createElement("label");
    label.className = "option";
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "answer", value });
    input.dataset.key = key;
    input.onchange = () => {
      $("next").disabled = false;
      $("hint").textContent = words.then_next;
    };
    const number = Object.assign(document.createElement("kbd"), { textContent: key });
    label.append(input, number, Object.assign(document.createElement("span"), { textContent: text }));
    return label;
  }
  function addPlayer(sound, name, i, reference) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "player" + (reference ? " reference" : "");
    const [icon, label, heard, bar] = ["icon", "name", "heard", "bar"].map((kind) => {
      const span = Object.assign(document.createElement("span"), { className: kind });
      button.append(span);
      return span;
    });
    label.textContent = name;
    const audio = new Audio(source(sound));
    const draw = () => {
      icon.textContent = audio.paused ? "▶" : "■";
      button.setAttribute("aria-label", `${audio.paused ? words.play : words.stop}: ${name}`);
    };
    audio.onplay = audio.onpause = draw;
    audio.ontimeupdate = () => { bar.style.width = `${(100 * audio.currentTime) / (audio.duration || 1)}%`; };
    audio.onended = () => {
      heard.textContent = "✓";
      bar.style.width = "0";
      if (!current) return;
      current.heard.add(i);
      current.plays += 1;
      if (current.heard.size === current.trial.sounds.length && $("choices").disabled) {
        $("choices").disabled = false;
        $("hint").textContent = words.now_judge;
      }
    };
    audio.onerror = () => say(words.no_sound);
    button.onclick = () => {
      const playing = !audio.paused;
      stop();
      if (playing) return;
      audio.currentTime = 0;
      audio.play().catch((error) => { if (error.name !== "AbortError") say(words.no_sound); });
    };
    current.players.push({ audio, button });
    // the speaker is heard before the clip that is compared with it
    if (reference) $("players").prepend(button);
    else $("players").append(button);
    draw();
  }
  function source(sound) {
    return "data:audio/mpeg;base64," + test.sounds[sound];
  }
  function stop() {
    for (const { audio } of current ? current.players : []) audio.pause();
  }
  function answer(event) {
    event.preventDefault();
    const chosen = document.querySelector("input[name=answer]:checked");
    if (!current || $("choices").disabled || !chosen) return;
    const { trial, since, plays } = current;
    const seconds = Math.round((performance.now() - since) / 100) / 10;
    const value = trial.test === "ab" ? chosen.value : Number(chosen.value);
    state.answers[trial.id] = { answer: value, seconds, plays, at: now() };
    say("");
    keep();
    show();
  }
  function key(event) {
    if ($("trial").hidden || event.ctrlKey || event.metaKey || event.altKey || !current) return;
    const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code); // by place, so that Thai and Lao keyboards work too
    if (digit && !$("choices").disabled) {
      const input = document.querySelector(`input[data-key="${digit[1]}"]`);
      if (!input) return;
      input.checked = true;
      input.focus();
      input.onchange();
      event.preventDefault();
    } else if (event.code === "Space" && event.target.tagName !== "BUTTON") {
      const shown = [...$("players").children];
      const unheard = shown.find((button) => !button.querySelector(".heard").textContent);
      (unheard || shown[shown.length - 1]).click();
      event.preventDefault();
    } else if ((event.code === "Enter" || event.code === "NumpadEnter") && event.target.tagName === "INPUT") {
      answer(event);
    }
  }

  $("who").textContent = fill(words.rater, { rater: test.rater });
  const both = () => { $("start").disabled = !($("ready").checked && $("consent").checked); };
  $("ready").onchange = $("consent").onchange = both;
  const volume = new Audio(source(0));
  $("volume").onclick = () => {
    volume.currentTime = 0;
    volume.play().catch((error) => { if (error.name !== "AbortError") say(words.no_sound); });
  };
  $("start").onclick = () => {
    volume.pause();
    state.started = now();
    part(test.sections[0].test);
  };
  $("form").onsubmit = answer;
  $("comment").oninput = () => { state.comment = $("comment").value; keep(); };
  $("download").onclick = $("save").onclick = download;
  $("load").onclick = () => $("file").click();
  $("file").onchange = () => {
    if ($("file").files[0]) load($("file").files[0]);
    $("file").value = "";
  };
  document.addEventListener("keydown", key);
  window.addEventListener("beforeunload", (event) => { if (!keeps && !state.finished) event.preventDefault(); });
  fetchKept();
  both();
  show();
})();
