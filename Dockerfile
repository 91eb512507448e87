# A finished run as a service:
#   docker build -t warmstart .
#   docker run -p 127.0.0.1:8000:8000 -e WARMSTART_TOKEN=… -v "$PWD/runs/photos:/model:ro" warmstart
# The run folder is mounted, not copied, so that one image serves any model.
FROM python:3.12-slim

# torch without CUDA: a tenth of the size. Its own layer, so that a change here does not fetch it anew.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu \
    "torch>=2.4" "torchvision>=0.19"

WORKDIR /opt/warmstart
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir ".[serve]"

# Nothing is written at run time but caches of libraries, which may go.
RUN useradd --system --uid 10001 --create-home --home-dir /home/warmstart warmstart
USER 10001
ENV HOME=/home/warmstart HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
WORKDIR /home/warmstart

EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

ENTRYPOINT ["warmstart"]
CMD ["serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
