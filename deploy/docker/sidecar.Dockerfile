# docker build -f deploy/docker/sidecar.Dockerfile -t stepcred-sidecar .        (from the project's root)
# The digest is that of the tag's index as public repositories name it; no registry was asked. Raise both together:
# docker buildx imagetools inspect python:3.11-slim-bookworm
FROM python:3.11.16-slim-bookworm@sha256:2e32f7d302adc1c37428355c1e646897c0c53f4fd60b6a551245fb90ee129f91 AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY requirements/build.txt requirements/sidecar.txt requirements/
# Wheels only, each by its hash: nothing that is downloaded runs here. The image's own environment gets no installer.
RUN python -m venv /build && \
    /build/bin/pip install -q --require-hashes --only-binary :all: -r requirements/build.txt && \
    python -m venv --without-pip /opt/stepcred && \
    /build/bin/pip --python /opt/stepcred install -q --no-compile --require-hashes --only-binary :all: -r requirements/sidecar.txt
COPY pyproject.toml README.md LICENSE ./
COPY broker broker
COPY clients clients
# Bytecode that is never compared with its source: the root is read-only, and layers carry their own times.
# The wheel holds the daemon too; where steps run it has no business.
RUN /build/bin/pip wheel -q --no-deps --no-build-isolation --wheel-dir dist . && \
    /build/bin/pip --python /opt/stepcred install -q --no-compile --no-deps --no-index dist/*.whl && \
    rm -r /opt/stepcred/bin/stepcred-broker /opt/stepcred/lib/python3.11/site-packages/broker && \
    python -m compileall -q --invalidation-mode unchecked-hash /opt/stepcred

FROM python:3.11.16-slim-bookworm@sha256:2e32f7d302adc1c37428355c1e646897c0c53f4fd60b6a551245fb90ee129f91
LABEL org.opencontainers.image.title="stepcred-sidecar" \
      org.opencontainers.image.description="Gives the credentials of one workflow step to a program that knows nothing of the broker" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.11/site-packages/pip /usr/local/lib/python3.11/ensurepip
COPY --from=build /opt/stepcred /opt/stepcred
ENV PATH=/opt/stepcred/bin:/usr/local/bin:/usr/bin:/bin HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# A number, so that Kubernetes can tell that it is not root.
USER 10001:10001
# It ends the step: revokes, and waits for the proof.
STOPSIGNAL SIGTERM
ENTRYPOINT ["stepcred"]
CMD ["sidecar", "--help"]
