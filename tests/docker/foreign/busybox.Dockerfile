# In place of Alpine's image, which needs a registry: musl, and busybox, built against it, for all else.
ARG BASE_IMAGE
FROM ${BASE_IMAGE} AS build
COPY fetch-source /
RUN /fetch-source busybox /busybox && apt-get install -y --no-install-recommends linux-libc-dev musl-tools
# musl-gcc does not look into the directories that have the kernel's headers
RUN mkdir -p /kernel /made/bin /made/etc /made/lib /made/tmp && ln -s /usr/include/*-linux-gnu/asm /kernel/ \
    && ln -s /usr/include/linux /usr/include/asm-generic /usr/include/mtd /kernel/ && cd /busybox \
    && make defconfig >/dev/null && sed -i 's/^CONFIG_TC=y/# CONFIG_TC is not set/' .config \
    && make -s -j2 CC='musl-gcc -idirafter /kernel' busybox
RUN cp /lib/*-linux-musl/libc.so "/made/lib/ld-musl-$(uname -m).so.1" && cp /busybox/busybox /made/bin/ \
    && for name in $(/busybox/busybox --list); do ln -sf busybox "/made/bin/$name"; done && ls -l /made/bin/busybox /made/bin/sh \
    && echo 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/sbin/nologin' >/made/etc/passwd \
    && echo 'root:x:0:root\nnobody:x:65534:' >/made/etc/group
COPY server.c /
RUN musl-gcc -Wall -Werror -o /made/server /server.c

FROM scratch
COPY --from=build /made/ /
CMD ["/bin/sh"]
