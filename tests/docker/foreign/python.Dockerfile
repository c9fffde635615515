# In place of the public python images, which need a registry: a Python built from source, shared, in /usr/local, on a Debian
# with no other Python. It goes without their optimizations, which take long and change no file's place.
ARG BASE_IMAGE
ARG PYTHONLESS_IMAGE
FROM ${BASE_IMAGE} AS build
COPY fetch-source /
RUN /fetch-source python3.13 /python \
    && apt-get install -y --no-install-recommends libssl-dev libffi-dev zlib1g-dev libbz2-dev liblzma-dev libsqlite3-dev
RUN cd /python && ./configure --quiet --enable-shared --enable-loadable-sqlite-extensions --with-ensurepip \
        LDFLAGS=-Wl,--strip-all \
    && make -s -j2 >/dev/null && make -s install DESTDIR=/made >/dev/null && ln -s python3 /made/usr/local/bin/python

FROM ${PYTHONLESS_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends libssl3 libffi8 zlib1g libbz2-1.0 liblzma5 libsqlite3-0
COPY --from=build /made/usr/local /usr/local
RUN ldconfig && python3 --version
CMD ["python3"]
