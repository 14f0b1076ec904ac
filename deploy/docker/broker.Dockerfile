# docker build -f deploy/docker/broker.Dockerfile -t stepcred-broker .        (from the project's root)
# The digest is that of the tag's index as public repositories name it; no registry was asked. Raise both together:
# docker buildx imagetools inspect python:3.11-slim-bookworm
FROM python:3.11.16-slim-bookworm@sha256:2e32f7d302adc1c37428355c1e646897c0c53f4fd60b6a551245fb90ee129f91 AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY requirements/build.txt requirements/broker.txt requirements/
# Wheels only, each by its hash: nothing that is downloaded runs here. The image's own environment gets no installer.
RUN python -m venv /build && \
    /build/bin/pip install -q --require-hashes --only-binary :all: -r requirements/build.txt && \
    python -m venv --without-pip /opt/stepcred && \
    /build/bin/pip --python /opt/stepcred install -q --no-compile --require-hashes --only-binary :all: -r requirements/broker.txt
COPY pyproject.toml README.md LICENSE ./
COPY broker broker
COPY clients clients
# Bytecode that is never compared with its source: the root is read-only, and layers carry their own times.
RUN /build/bin/pip wheel -q --no-deps --no-build-isolation --wheel-dir dist . && \
    /build/bin/pip --python /opt/stepcred install -q --no-compile --no-deps --no-index dist/*.whl && \
    python -m compileall -q --invalidation-mode unchecked-hash /opt/stepcred

FROM python:3.11.16-slim-bookworm@sha256:2e32f7d302adc1c37428355c1e646897c0c53f4fd60b6a551245fb90ee129f91
LABEL org.opencontainers.image.title="stepcred-broker" \
      org.opencontainers.image.description="Short-lived, narrowly scoped credentials for workflow steps" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# A named volume takes owner and modes from here. Keys apart from the database: docs/run.md says why.
RUN install -d -m 0700 -o 10001 -g 10001 /var/lib/stepcred /var/lib/stepcred/keys && \
    rm -rf /usr/local/bin/pip* /usr/local/lib/python3.11/site-packages/pip /usr/local/lib/python3.11/ensurepip
COPY --from=build /opt/stepcred /opt/stepcred
ENV PATH=/opt/stepcred/bin:/usr/local/bin:/usr/bin:/bin HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /var/lib/stepcred
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
EXPOSE 8443 8444
STOPSIGNAL SIGTERM
# Does the event loop turn? For Docker; Kubernetes has probes of its own. It fits listen.http as it is by default.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=3)"]
ENTRYPOINT ["stepcred-broker"]
CMD ["serve", "--config", "/etc/stepcred/broker.toml"]
