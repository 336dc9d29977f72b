# The gateway, for machines that run containers: docs/gateway.md, "In a container".
#   docker build -t lix-cache .
#   docker run -p 8640:8640 -v ./gateway.yaml:/etc/lix-cache/gateway.yaml:ro -e LIX_CACHE_REDIS_URL=redis://redis lix-cache

FROM python:3.13-slim AS build
WORKDIR /src
# The C extension needs a compiler, and what runs does not.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE NOTICE ./
COPY lix_cache ./lix_cache
RUN python -m venv /opt/lix-cache
RUN /opt/lix-cache/bin/pip install --no-cache-dir ".[cli,gateway,object-store,otel,zstd]"

FROM python:3.13-slim
COPY --from=build /opt/lix-cache /opt/lix-cache
RUN useradd --system --no-create-home --uid 10001 lix-cache && install -d -o lix-cache /var/lib/lix-cache
USER 10001
WORKDIR /var/lib/lix-cache
ENV PATH=/opt/lix-cache/bin:$PATH PYTHONUNBUFFERED=1 LIX_CACHE_ARCHIVE_DIR=/var/lib/lix-cache/conversations
EXPOSE 8640
# SIGTERM drains; SIGHUP reads the settings again.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8640/healthz', timeout=2)"]
ENTRYPOINT ["lix-cache", "serve"]
CMD ["--config", "/etc/lix-cache/gateway.yaml", "--port", "8640"]
