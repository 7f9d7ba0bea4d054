"""All that knows Streamlit: routing, texts, cached loaders, jobs, results, panels, charts."""

import os

# Before torch is imported: threads that wait must sleep, not spin. On cores shared with other programs, the
# usual spinning makes a small network 20 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
