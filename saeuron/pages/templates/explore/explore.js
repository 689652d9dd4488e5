// The explorer works without this file, but for Try it and search by a picture. No library, no build step.
"use strict";

const one = (selector, within = document) => within.querySelector(selector);

// Parts of a page that take longer are fetched when it is open.
for (const part of document.querySelectorAll("[data-part]")) {
  fetch(part.dataset.part)
    .then((answer) => (answer.ok ? answer.text() : Promise.reject(new Error(`it was answered with ${answer.status}`))))
    .then((html) => { part.innerHTML = html; })
    .catch((error) => { part.textContent = `It could not be looked up: ${error.message}`; });
}

// A query that takes long can be stopped: the server ends it when nobody waits.
for (const form of document.querySelectorAll("form[data-busy]")) {
  const stop = one("[data-stop]", form), said = one("[data-said]", form);
  const area = one("textarea", form);
  form.addEventListener("submit", () => { stop.hidden = false; said.textContent = form.dataset.busy; });
  stop.addEventListener("click", () => { window.stop(); stop.hidden = true; said.textContent = "stopped"; });
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

async function asJson(answering) {
  try {
    const answer = await answering;
    return await answer.json();
  } catch (error) {
    return { error: `the server did not answer: ${error.message}` };
  }
}

// A picture that is dropped or chosen: which latents fire on it.
const brought = one("#look");
if (brought) lookAt(brought);

function lookAt(form) {
  const said = one("[data-said]", form), stop = one("[data-stop]", form), file = form.elements.picture;
  let job = null;

  for (const kind of ["dragover", "dragleave", "drop"]) {
    form.addEventListener(kind, (event) => {
      event.preventDefault();
      form.toggleAttribute("data-over", kind === "dragover");
    });
  }
  form.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    file.files = event.dataTransfer.files;
    form.requestSubmit();
  });
  stop.addEventListener("click", () => { if (job) fetch(`/api/jobs/${job}`, { method: "DELETE" }); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!file.files.length) { said.textContent = "choose a picture first"; return; }
    if (job) await fetch(`/api/jobs/${job}`, { method: "DELETE" });
    const words = new URLSearchParams({ prompt: form.elements.prompt.value });
    let told = await asJson(fetch(`/api/look?${words}`, { method: "POST", body: file.files[0] }));
    const mine = told.id;
    job = mine;
    stop.hidden = false;
    while (mine === job && !told.error && !["done", "cancelled"].includes(told.state)) {
      said.textContent = told.state === "drawing" ? `${told.done} of ${told.steps} noise levels` : told.state;
      await new Promise((resolve) => setTimeout(resolve, 80));
      told = await asJson(fetch(`/api/jobs/${mine}`));
    }
    if (mine !== job) return;
    job = null;
    stop.hidden = true;
    said.classList.toggle("bad", Boolean(told.error));
    said.textContent = told.error || (told.state === "done" ? `${told.seconds} s` : told.state);
    if (told.state !== "done" || told.error) return;
    const answer = await fetch(`/part/fires?job=${mine}`);
    one("#fires").innerHTML = answer.ok ? await answer.text() : "";
  });
}

const form = one("#try");
if (form) tryIt(form);

function tryIt(form) {
  const size = Number(form.dataset.cells), grid = one("#grid"), cells = [];
  const said = one("#said"), progress = one("#progress"), stop = one("#stop");
  let job = null, painting = null, at = 0;

  // Where: a grid of cells, painted with the mouse or the keyboard.
  for (let r = 0; r < size; r++) {
    const row = document.createElement("div");
    row.setAttribute("role", "row");
    for (let c = 0; c < size; c++) {
      const cell = document.createElement("div");
      cell.setAttribute("role", "gridcell");
      cell.setAttribute("aria-selected", "false");
      cell.setAttribute("aria-label", `row ${r + 1}, column ${c + 1}`);
      cell.tabIndex = r + c === 0 ? 0 : -1;
      cells.push(cell);
      row.append(cell);
    }
    grid.append(row);
  }
  const painted = (cell) => cell.getAttribute("aria-selected") === "true";
  const paint = (cell, on) => { cell.setAttribute("aria-selected", String(on)); where(); };
  const where = () => {
    const count = cells.filter(painted).length;
    one("#where").textContent = count ? `${count} of ${cells.length} cells` : "the whole picture";
  };
  const region = () => {
    if (!cells.some(painted)) return "";
    let hex = "";
    for (let i = 0; i < cells.length; i += 4) {
      hex += cells.slice(i, i + 4).reduce((sum, cell) => 2 * sum + Number(painted(cell)), 0).toString(16);
    }
    return hex;
  };
  [...(form.dataset.region || "")].forEach((digit, i) => {
    for (let bit = 0; bit < 4; bit++) {
      if (parseInt(digit, 16) & (8 >> bit)) cells[4 * i + bit].setAttribute("aria-selected", "true");
    }
  });
  where();
  const cellAt = (event) => {
    const box = grid.getBoundingClientRect();
    const c = Math.floor((size * (event.clientX - box.left)) / box.width);
    const r = Math.floor((size * (event.clientY - box.top)) / box.height);
    return r >= 0 && c >= 0 && r < size && c < size ? cells[r * size + c] : null;
  };
  grid.addEventListener("pointerdown", (event) => {
    const cell = cellAt(event);
    if (!cell) return;
    painting = !painted(cell);
    paint(cell, painting);
    grid.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  grid.addEventListener("pointermove", (event) => {
    const cell = painting === null ? null : cellAt(event);
    if (cell) paint(cell, painting);
  });
  grid.addEventListener("pointerup", () => { painting = null; });
  grid.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -size, ArrowDown: size };
    if (event.key === " " || event.key === "Enter") {
      paint(cells[at], !painted(cells[at]));
      event.preventDefault();
    } else if (event.key in moves) {
      const next = at + moves[event.key];
      const same = Math.abs(moves[event.key]) > 1 || Math.floor(next / size) === Math.floor(at / size);
      if (next >= 0 && next < cells.length && same) {
        cells[at].tabIndex = -1;
        at = next;
        cells[at].tabIndex = 0;
        cells[at].focus();
      }
      event.preventDefault();
    }
  });
  one("#clear").addEventListener("click", () => { cells.forEach((cell) => cell.setAttribute("aria-selected", "false")); where(); });

  // What: removals and latents, one line each.
  function field(label, kind, value) {
    const input = document.createElement("input");
    input.type = kind;
    input.value = value;
    input.setAttribute("aria-label", label);
    return input;
  }
  function dropping(chip, name) {
    const drop = document.createElement("button");
    drop.type = "button";
    drop.className = "plain";
    drop.textContent = "Leave out";
    drop.setAttribute("aria-label", `Leave out ${name}`);
    drop.addEventListener("click", () => chip.remove());
    return drop;
  }
  function removal(text, chip = document.createElement("div")) {
    const cut = text.lastIndexOf(":"), name = cut < 0 ? text : text.slice(0, cut);
    const strength = field(`Strength of ${name}`, "number", cut < 0 ? "1" : text.slice(cut + 1));
    Object.assign(strength, { min: 0, max: 1, step: 0.1 });
    const words = document.createElement("span");
    words.className = "name";
    words.textContent = name;
    chip.className = "chip";
    chip.append(words, strength, dropping(chip, name));
    chip.value = () => ["removal", `${name}:${strength.value || 1}`];
    one("#removals").append(chip);
  }
  function latent(text, chip = document.createElement("div")) {
    const [sae, number, mode, value] = text.split(":");
    const link = document.createElement("a");
    link.href = `/latent?sae=${encodeURIComponent(sae)}&i=${number}`;
    const known = [...one("#sae").options].find((option) => option.value === sae);
    link.textContent = `${number} of ${known ? known.textContent : sae}`;
    const select = document.createElement("select");
    select.setAttribute("aria-label", `What becomes of latent ${number}`);
    for (const each of ["off", "scale", "on"]) select.add(new Option(each, each, false, each === mode));
    const amount = field(`Value of latent ${number}`, "number", value ?? "1");
    amount.step = "any";
    const shown = () => { amount.hidden = select.value === "off"; };
    select.addEventListener("change", shown);
    shown();
    chip.className = "chip";
    chip.append(link, select, amount, dropping(chip, `latent ${number}`));
    chip.value = () => ["latent", `${sae}:${number}:${select.value}` + (select.value === "off" ? "" : `:${amount.value || 0}`)];
    one("#latents").append(chip);
  }
  document.querySelectorAll("[data-removal]").forEach((chip) => removal(chip.dataset.removal, chip));
  document.querySelectorAll("[data-latent]").forEach((chip) => latent(chip.dataset.latent, chip));
  one("#add-removal").addEventListener("change", (event) => {
    if (event.target.value) removal(`${event.target.value}:1`);
    event.target.value = "";
  });
  one("#add-latent").addEventListener("click", () => latent(`${one("#sae").value}:${Number(one("#latent").value)}:off`));

  function query() {
    const given = new URLSearchParams();
    for (const name of ["prompt", "seed", "steps", "guidance", "first", "last"]) {
      const value = form.elements[name].value.trim();
      if (value && !(name === "first" && value === "0")) given.append(name, value);
    }
    if (region()) given.append("region", region());
    document.querySelectorAll(".chip").forEach((chip) => given.append(...chip.value()));
    return given.toString();
  }

  // Draw: ask, look how far it is, show.
  form.addEventListener("submit", (event) => { event.preventDefault(); draw(); });
  stop.addEventListener("click", () => { if (job) fetch(`/api/jobs/${job}`, { method: "DELETE" }); });

  async function draw() {
    if (job) await fetch(`/api/jobs/${job}`, { method: "DELETE" });
    const asked = query();
    const type = { "Content-Type": "application/x-www-form-urlencoded" };
    let told = await asJson(fetch("/api/try", { method: "POST", body: asked, headers: type }));
    const mine = told.id;
    job = mine;
    stop.hidden = progress.hidden = false;
    while (mine === job && !told.error && !["done", "cancelled"].includes(told.state)) {
      const ahead = told.ahead ? `, ${told.ahead} before it` : "";
      said.textContent = told.state === "drawing" ? `step ${told.done} of ${told.steps}` : `${told.state}${ahead}`;
      progress.value = told.steps ? told.done / told.steps : 0;
      await new Promise((resolve) => setTimeout(resolve, 80));
      told = await asJson(fetch(`/api/jobs/${mine}`));
    }
    if (mine !== job) return;
    job = null;
    stop.hidden = progress.hidden = true;
    said.classList.toggle("bad", Boolean(told.error));
    said.textContent = told.error || (told.state === "done" ? `${told.seconds} s` : told.state);
    if (told.state !== "done" || told.error) return;
    for (const name of ["unedited", "edited"]) {
      const picture = one(`#${name}`), there = told.pictures.includes(name);
      picture.hidden = !there;
      if (there) {
        picture.src = `/api/jobs/${mine}/${name}.png`;
        picture.alt = `${name}: ${form.elements.prompt.value}`;
      }
    }
    one("#changed").textContent = told.pictures.includes("edited")
      ? `mean difference ${told.changed} of 255` : "nothing is turned: add a removal or a latent";
    history.replaceState(null, "", told.link);
    one("#link").href = told.link;
    one("#same").hidden = false;
    const answer = await fetch(`/api/python?${asked}`);
    one("#python").textContent = answer.ok ? await answer.text() : "";
  }
  one("#copy").addEventListener("click", () => navigator.clipboard && navigator.clipboard.writeText(one("#python").textContent));
  if ("go" in form.dataset) draw();
}
