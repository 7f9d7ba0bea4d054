// Keys that lead through numbered steps, as presenters' clickers send them. Python hears the step that is
// wanted, not the key: where several are pressed before it answers, none is lost.

const STEPS = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1, Home: -Infinity, End: Infinity };
const ENTERING = "input, textarea, select, [contenteditable='true'], [role='slider'], [role='listbox']";
const PRESSED = "button, a, summary, [role='button'], [role='radio'], [role='tab'], [role='link']";
const PATIENCE = 5000; // ms: after that Python's step counts again, whatever was wanted

const kept = new WeakMap();

export default function ({ data, parentElement, setTriggerValue }) {
  let keys = kept.get(parentElement);
  if (!keys) kept.set(parentElement, (keys = build()));
  keys.count = data.count;
  keys.send = (step) => setTriggerValue("wanted", step);
  keys.told(data.step);
  return () => {
    document.removeEventListener("keydown", keys.pressed);
    kept.delete(parentElement);
  };
}

function build() {
  const keys = { at: 1, until: 0 };

  keys.told = (step) => {
    if (keys.until && step !== keys.at && performance.now() < keys.until) return; // an older answer
    keys.at = step;
    keys.until = 0;
  };

  keys.pressed = (event) => {
    const by = stepOf(event);
    if (!by) return;
    event.preventDefault(); // the page does not scroll as well
    const wanted = Math.max(1, Math.min(keys.count, keys.at + by));
    if (wanted === keys.at) return;
    keys.at = wanted;
    keys.until = performance.now() + PATIENCE;
    keys.send(wanted);
  };
  document.addEventListener("keydown", keys.pressed);
  return keys;
}

/** How many steps a key leads on: 0 where it is meant for something else. */
function stepOf(event) {
  if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return 0;
  let held = event.target;
  while (held?.shadowRoot?.activeElement) held = held.shadowRoot.activeElement;
  if (held?.closest?.(ENTERING)) return 0;
  if (event.key === " ") return held?.closest?.(PRESSED) ? 0 : event.shiftKey ? -1 : 1;
  if (event.shiftKey) return 0;
  const radio = held?.closest?.("[role='radio'], [role='tab']"); // there arrows choose
  return radio && !event.key.startsWith("Page") ? 0 : (STEPS[event.key] ?? 0);
}
