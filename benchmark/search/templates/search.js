"use strict";
// Names of pictures reach the page as text alone; a picture is asked for by its number.
const $ = (id) => document.getElementById(id);
const count = JSON.parse($("data").textContent).count;
const PAGE = 24;
let reference = null, shownFrom = 0, asked = 0;

function tell(text, wrong) {
  $("told").textContent = text;
  $("told").classList.toggle("wrong", Boolean(wrong));
}

function shown(source, name) {
  const image = document.createElement("img");
  image.alt = name;
  image.loading = "lazy";
  image.src = source;
  return image;
}

function choose(chosen) {
  if (reference && reference.address) URL.revokeObjectURL(reference.address);
  reference = chosen;
  $("reference").replaceChildren(shown(chosen.address || `/picture/${chosen.number}`, chosen.name));
  $("hint").textContent = chosen.name;
}

function chooseFile(file) {
  if (file) choose({ file, name: file.name, address: URL.createObjectURL(file) });
}

function entry(picture, caption, chosen) {
  const item = document.createElement("li"), button = document.createElement("button"), told = document.createElement("span");
  button.type = "button";
  button.dataset.number = picture.number;
  button.title = picture.name;
  told.textContent = caption;
  button.append(shown(`/picture/${picture.number}`, picture.name), told);
  button.addEventListener("click", () => chosen(picture));
  item.append(button);
  return item;
}

async function answer(response) {
  let found = {};
  try { found = await response.json(); } catch { /* a refusal of the server itself is no JSON */ }
  if (!response.ok) throw new Error(found.error || `the picture or the text was refused (${response.status})`);
  return found;
}

async function search() {
  const text = $("text").value;
  if (!reference) { tell("Choose a reference picture first.", true); return; }
  if (!text.trim()) { tell("Say how the wanted picture differs.", true); $("text").focus(); return; }
  const own = ++asked, words = new URLSearchParams({ text });
  if (!reference.file) words.set("reference", reference.number);
  tell("Searching…");
  $("go").disabled = true;
  try {
    const found = await answer(await fetch(`/search?${words}`, { method: "POST", body: reference.file || null }));
    if (own !== asked) return;
    $("heading").hidden = false;
    $("hits").replaceChildren(...found.hits.map((hit, i) => entry(hit, `${i + 1}  ${hit.score.toFixed(3)}  ${hit.name}`, goOn)));
    tell(`Found ${found.hits.length}. Press one to go on from it.`);
  } catch (error) {
    if (own === asked) tell(error.message, true);
  } finally {
    $("go").disabled = false;
  }
}

function goOn(hit) {
  choose(hit);
  $("text").select();
  $("text").focus();
  window.scrollTo({ top: 0 });
}

async function turn(first) {
  try {
    const found = await answer(await fetch(`/gallery?from=${first}`));
    shownFrom = first;
    $("gallery").replaceChildren(...found.pictures.map((picture) => entry(picture, picture.name, choose)));
    const last = Math.min(first + PAGE, count);
    $("place").textContent = `${first + 1} to ${last} of ${count.toLocaleString("en-GB")}`;
    $("before").disabled = first === 0;
    $("after").disabled = last >= count;
  } catch (error) {
    tell(error.message, true);
  }
}

$("size").textContent = count.toLocaleString("en-GB");
$("ask").addEventListener("submit", (event) => { event.preventDefault(); search(); });
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); search(); }
});
$("drop").addEventListener("click", (event) => { if (event.target !== $("file")) $("file").click(); });
$("drop").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); $("file").click(); } });
$("file").addEventListener("change", () => chooseFile($("file").files[0]));
for (const kind of ["dragenter", "dragover"]) {
  $("drop").addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  chooseFile(event.dataTransfer.files[0]);
});
$("before").addEventListener("click", () => turn(Math.max(0, shownFrom - PAGE)));
$("after").addEventListener("click", () => turn(shownFrom + PAGE));
turn(0);
