// The ranked table: small pictures, score, verdict; a row is chosen by a click or with its name, a button.

const MOST = 3; // thresholds at which the bar of a score is full

export default function ({ data, parentElement, setTriggerValue }) {
  let box = parentElement.querySelector(".box");
  if (!box) {
    box = document.createElement("div");
    box.className = "box";
    box.tabIndex = 0; // so that it can be scrolled by keys
    parentElement.append(box);
  }
  const key = JSON.stringify([data.words, data.rows.map((row) => [row.key, row.score, row.rank])]);
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", data.words.table);
    box.replaceChildren(table(data));
    box.scrollTop = 0;
  }
  box.querySelectorAll("tbody tr").forEach((line) => {
    const choose = () => {
      mark(box, line.dataset.key);
      setTriggerValue("chosen", line.dataset.key);
    };
    line.onclick = choose;
  });
  mark(box, data.chosen);
}

function mark(box, key) {
  box.querySelectorAll("tbody tr").forEach((line) => {
    const chosen = line.dataset.key === key;
    line.classList.toggle("chosen", chosen);
    line.querySelector("button").setAttribute("aria-pressed", String(chosen));
  });
}

function table(data) {
  const made = document.createElement("table");
  const head = made.createTHead().insertRow();
  for (const name of ["rank", "pictures", "image", "score", "regions", "verdict"]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.className = name;
    cell.textContent = data.words[name];
    head.append(cell);
  }
  const body = made.createTBody();
  data.rows.forEach((row) => body.append(line(row, data.words)));
  return made;
}

function line(row, words) {
  const made = document.createElement("tr");
  made.dataset.key = row.key;
  const cell = (name, ...content) => {
    const place = made.insertCell();
    place.className = name;
    place.append(...content);
  };
  cell("rank", String(row.rank));
  cell("pictures", picture(row.original, row.alt), picture(row.overlay, row.alt_overlay));
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = row.name;
  button.title = words.open;
  cell("image", button);
  const score = document.createElement("span");
  score.textContent = row.score;
  const bar = document.createElement("i");
  bar.setAttribute("aria-hidden", "true");
  bar.style.setProperty("--share", `${(100 * Math.min(row.ratio, MOST)) / MOST}%`);
  bar.style.setProperty("--threshold", `${100 / MOST}%`);
  cell("score", score, bar);
  made.lastChild.dataset.name = words.score; // for narrow screens, which have no head
  cell("regions", String(row.regions));
  made.lastChild.dataset.name = words.regions;
  const verdict = document.createElement("b");
  verdict.textContent = row.verdict;
  verdict.className = row.anomalous ? "bad" : "good";
  cell("verdict", verdict);
  return made;
}

function picture(source, alt) {
  const image = document.createElement("img");
  Object.assign(image, { src: source, alt, loading: "lazy", width: 64, height: 64 });
  return image;
}
