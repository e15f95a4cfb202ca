# docker build -t bdscan . && docker run --rm --read-only --tmpfs /tmp -v "$PWD:/work:ro" bdscan inspect MODEL --clean DATA

FROM python:3.12-slim AS build
RUN python -m venv /opt/bdscan
ENV PATH=/opt/bdscan/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Before bdscan, and both from one index: PyPI's are built for CUDA, are ten times as large and do not mix with these.
RUN pip install --index-url https://download.pytorch.org/whl/cpu torch torchvision
COPY pyproject.toml README.md LICENSE /src/
COPY bdscan /src/bdscan
RUN pip install /src

FROM python:3.12-slim
COPY --from=build /opt/bdscan /opt/bdscan
# HOME and all caches below /tmp, the one place that has to be writable.
ENV PATH=/opt/bdscan/bin:$PATH HOME=/tmp TORCH_HOME=/tmp/torch XDG_CACHE_HOME=/tmp/cache PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["bdscan"]
