"""The work that jobs do: each function takes its `Job`, follows a stream of the core and reports.

No Streamlit here: what a worker needs is handed to it. A stop that was asked for is looked at between steps.
"""
