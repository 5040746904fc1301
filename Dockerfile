# syntax=docker/dockerfile:1
# edgeface's camera for amd64 and arm64: docker buildx build --platform linux/amd64,linux/arm64 (docs/howto/docker.md)
FROM python:3.12-slim-bookworm AS build
# mqtt, and others of pyproject.toml's extras with commas between them, such as mqtt,tflite.
ARG EXTRAS=mqtt
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml CMakeLists.txt README.md LICENSE ./
COPY edgeface edgeface
COPY convert convert
COPY devices devices
COPY quantize quantize
# "board" has each model once, in int8 for ncnn; "bench" all, as the extra tflite wants: the clone does not stay.
ARG WHEEL=board
ENV EDGEFACE_WHEEL=${WHEEL}
RUN python -m venv /opt/edgeface \
    && /opt/edgeface/bin/pip install --no-cache-dir ".[${EXTRAS}]" \
    && /opt/edgeface/bin/edgeface --version | grep '; C kernels)'

FROM python:3.12-slim-bookworm
COPY --from=build /opt/edgeface /opt/edgeface
COPY docker/health.py /opt/edgeface/health.py
# Who owns a camera's device differs by system: docker run --group-add says it.
RUN useradd --create-home --uid 10001 edgeface && install --directory --owner edgeface /data
USER edgeface
# What a run keeps (--events, --video, --json) is written here.
WORKDIR /data
VOLUME /data
ENV PATH=/opt/edgeface/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8485
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "/opt/edgeface/health.py"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["edgeface"]
CMD ["camera", "--show", "--bind", "0.0.0.0"]
