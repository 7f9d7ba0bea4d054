// A button that takes the image in the clipboard, and Ctrl+V anywhere on the page.

const kept = new WeakMap();

export default function ({ data, parentElement, setTriggerValue }) {
  let paste = kept.get(parentElement);
  if (!paste) kept.set(parentElement, (paste = build(parentElement)));
  Object.assign(paste, { words: data.words, send: (value) => setTriggerValue("pasted", value) });
  paste.button.textContent = data.words.paste;
  document.removeEventListener("paste", paste.pasted);
  if (data.everywhere) document.addEventListener("paste", paste.pasted);
  return () => {
    document.removeEventListener("paste", paste.pasted);
    paste.box.remove();
    kept.delete(parentElement);
  };
}

function build(root) {
  const box = document.createElement("div");
  const button = document.createElement("button");
  const said = document.createElement("span");
  button.type = "button";
  said.setAttribute("role", "status");
  box.append(button, said);
  root.append(box);
  const paste = { box, button };

  async function take(files) {
    const images = files.filter((file) => file.type.startsWith("image/"));
    said.textContent = images.length ? "" : paste.words.none;
    const found = [];
    for (const image of images) {
      found.push({ name: image.name || paste.words.name, data: await base64(image) });
    }
    if (found.length) paste.send({ at: Date.now(), images: found });
  }

  paste.pasted = (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.some((file) => file.type.startsWith("image/"))) return; // text, for a field of the page
    event.preventDefault();
    take(files);
  };
  button.addEventListener("click", async () => {
    try {
      const files = [];
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((name) => name.startsWith("image/"));
        if (type) files.push(new File([await item.getType(type)], paste.words.name, { type }));
      }
      await take(files);
    } catch {
      said.textContent = paste.words.refused; // no permission, or a page without https
    }
  });
  return paste;
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",")[1]);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
