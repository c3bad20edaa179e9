# One image for every process of the pipeline: the command chooses which, COMPONENT names it to the health check.
# docker-compose.yml says how they belong together.
FROM python:3.12.12-slim-trixie AS packages
COPY requirements.txt .
# The project itself is copied below and found through PYTHONPATH: a change of its code leaves this layer as it is.
RUN python3 -m venv /opt/venv \
 && grep -v '^-e ' requirements.txt >packages.txt \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check -r packages.txt

FROM python:3.12.12-slim-trixie
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LOG_TO_FILE=false
# /state keeps what the demo's simulator remembers; a volume mounted there takes over its owner.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /app --shell /usr/sbin/nologin pipeline \
 && mkdir /state && chown pipeline:pipeline /state
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY . .
USER pipeline
HEALTHCHECK --interval=15s --timeout=12s --start-period=60s --retries=3 \
  CMD ["/bin/sh", "-c", "exec python -m common.probe heartbeat \"$COMPONENT\""]
