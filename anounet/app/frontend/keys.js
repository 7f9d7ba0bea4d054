// Keys that lead through numbered steps, as presenters' clickers send them. Python hears the step that is
// wanted, not the key: where several are pressed before it answers, none is lost.

const STEPS = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1, Home: -Infinity, End: Infinity };
const ENTERING = "input, textarea, select, [contenteditable='true'], [role='slider'], [role='listbox']";
const PRESSED = "button, a, summary, [role='button'], [role='radio'], [role='tab'], [role='link']";
const AGAIN = 700; // ms after which a step that Python has not turned to is asked for anew
const TIMES = 5; // that it is asked for at most; then Python's own step counts again
const LEAVE = 2000; // ms: a page that is drawn anew takes the component away and brings it back

// One for the page: `told` is Python's step, `at` the one that was asked for.
const keys = { told: 1, at: 1, count: 1, asked: 0, timer: 0, leaving: 0, send: () => {} };

export default function ({ data, setTriggerValue }) {
  clearTimeout(keys.leaving);
  document.addEventListener("keydown", pressed); // once, however often
  document.documentElement.dataset.keys = "heard";
  keys.count = data.count;
  keys.send = (step) => setTriggerValue("wanted", step);
  keys.told = data.step;
  if (!keys.asked || keys.at === data.step) settle(data.step); // else it is an older answer
  return () => {
    keys.leaving = setTimeout(() => {
      document.removeEventListener("keydown", pressed);
      delete document.documentElement.dataset.keys;
      settle(keys.told);
    }, LEAVE);
  };
}

function pressed(event) {
  const by = stepOf(event);
  if (!by) return;
  event.preventDefault(); // the page does not scroll as well
  const wanted = Math.max(1, Math.min(keys.count, keys.at + by));
  if (wanted === keys.at) return;
  settle(wanted);
  ask();
}

/** Python may be in the middle of a run that ends without having seen it. */
function ask() {
  if (keys.asked === TIMES) return settle(keys.told);
  keys.asked += 1;
  keys.send(keys.at);
  keys.timer = setTimeout(ask, AGAIN * keys.asked);
}

function settle(step) {
  clearTimeout(keys.timer);
  keys.asked = 0;
  keys.at = step;
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
