// Pictures to choose from: each is a button, and its number goes to Python.

export default function ({ data, parentElement, setTriggerValue }) {
  let list = parentElement.querySelector("ul");
  if (!list) parentElement.append((list = document.createElement("ul")));
  const key = JSON.stringify(data.items.map((item) => [item.title, item.note, item.source.length]));
  if (list.dataset.key !== key) {
    list.dataset.key = key;
    list.replaceChildren(...data.items.map(entry));
  }
  [...list.querySelectorAll("button")].forEach((button, at) => {
    button.onclick = () => setTriggerValue("chosen", at);
  });
}

function entry(item) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  const title = document.createElement("b");
  const note = document.createElement("span");
  button.type = "button";
  Object.assign(image, { src: item.source, alt: "", loading: "lazy" }); // the words beside it say it all
  title.textContent = item.title;
  note.textContent = item.note;
  button.append(image, title, note);
  const place = document.createElement("li");
  place.append(button);
  return place;
}
