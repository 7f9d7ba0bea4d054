# The app with PyTorch's CPU build: docker build -t anounet . && docker run -p 8501:8501 anounet  (docs/HOSTING.md)
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1
WORKDIR /app

# Before the code, so that a change of the code does not install torch anew.
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt

RUN useradd --uid 1000 --create-home app
COPY .streamlit .streamlit
COPY LICENSE streamlit_app.py ./
COPY pages pages
COPY anounet anounet
RUN python -m compileall -q anounet pages
# What the app writes: bundles of own images, beside the shipped ones, and data sets that it downloads.
COPY --chown=app:app weights weights
RUN install --directory --owner=app --group=app data
VOLUME ["/app/weights", "/app/data"]
USER app

EXPOSE 8501
HEALTHCHECK --interval=20s --timeout=10s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=5)"]
CMD ["python", "-m", "anounet", "app", "--server.address=0.0.0.0", "--server.port=8501", "--server.headless=true", \
     "--server.fileWatcherType=none"]
