#!/usr/bin/env bash
# Finds or downloads what is needed to build the feature `vulkan` and to run it without a GPU:
# Vulkan's headers and loader, a shader compiler, and Mesa's software device, llvmpipe.
#
#   tools/software_vulkan.sh FOLDER
#
# Prints assignments for `eval`: the environment of build and run, and RUNNER, the prefix of a command
# that uses the device. Where the system's packages are too old (Debian 12), those of Debian 13 are
# unpacked into FOLDER (600 MB), from the mirrors configured in apt; nothing is installed, and no
# privileges are needed. Exits with 3 and one line with the reason if neither is available.
set -euo pipefail
folder=$(realpath -m "$1")
packages=(libvulkan-dev mesa-vulkan-drivers glslc spirv-headers)

unavailable() {
    echo "no software Vulkan device: $*" >&2
    exit 3
}

# Mesa 25, the first with Vulkan 1.4, works. Mesa 22 crashes on our shaders.
system_driver() {
    grep -l '"api_version": *"1\.[4-9]' /usr/share/vulkan/icd.d/lvp_icd*.json 2>/dev/null | head -n 1
}

system_can_build() {
    command -v glslc >/dev/null &&
        grep -qs 'struct LayerSettingEXT' /usr/include/vulkan/vulkan_structs.hpp &&
        compgen -G '/usr/*/cmake/SPIRV-Headers' >/dev/null
}

# Apt's sources with the release's name replaced, in the folder: the machine's mirrors are kept.
write_sources() {
    local file
    mkdir -p "$1"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
        case $file in
        *.list) grep -E "^deb .* $VERSION_CODENAME([ -]|\$)" "$file" ;;
        *.sources) grep -qE "^Suites:.* $VERSION_CODENAME([ -]|\$)" "$file" && cat "$file" ;;
        esac 2>/dev/null | sed "s/\b$VERSION_CODENAME\b/$2/g" >"$1/$(basename "$file")" || true
    done
}

# Unpacks the packages and all their dependencies, down to the C library, into "$folder/root".
unpack() {
    local apt=$folder/apt file
    rm -rf "$folder"
    mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$folder/root"
    write_sources "$apt/sources" trixie
    : >"$apt/installed"
    local options=(
        -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$apt/sources"
        -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/installed" -o "Dir::Cache=$apt/cache"
        -o "APT::Sandbox::User=" -o "APT::Update::Error-Mode=any"
        -o "APT::Update::Post-Invoke::=" -o "APT::Update::Post-Invoke-Success::="
    )
    {
        apt-get "${options[@]}" -qq update &&
            apt-get "${options[@]}" -qq -y --no-install-recommends --download-only install "${packages[@]}"
    } >&2 || unavailable "apt-get could not download ${packages[*]} of Debian 13"
    for file in "$apt"/cache/archives/*.deb; do
        dpkg-deb -x "$file" "$folder/root"
    done
    rm -rf "$apt"
    lay_out_sdk
    touch "$folder/complete"
}

# cmake searches the folder in VULKAN_SDK. The shader compiler runs with its own C library.
lay_out_sdk() {
    local sdk=$folder/sdk
    mkdir -p "$sdk/bin" "$sdk/lib"
    ln -s ../root/usr/include "$sdk/include"
    ln -s ../root/usr/share "$sdk/share"
    # The loader itself needs a newer C library than the one linked here; its symbol names are sufficient.
    nm -D --defined-only "$folder"/root/usr/lib/*/libvulkan.so.1 |
        sed -n 's/.* T \(vk[A-Za-z0-9]*\).*/void \1(void) {}/p' |
        cc -shared -fPIC -Wl,-soname,libvulkan.so.1 -o "$sdk/lib/libvulkan.so" -x c -
    {
        echo '#!/bin/sh'
        printf 'exec %s%q "$@"\n' "$(runner)" "$folder/root/usr/bin/glslc"
    } >"$sdk/bin/glslc"
    chmod +x "$sdk/bin/glslc"
}

# The dynamic linker of the unpacked packages, with their libraries alone.
runner() {
    local lib=$folder/root/usr/lib
    printf '%q ' "$(echo "$lib"/*/ld-linux-*.so.*)" --library-path "$(echo "$lib"/*-linux-gnu)"
}

print() { printf 'export %s=%q\n' "$@"; }

driver=$(system_driver || true)
if [ -n "$driver" ] && system_can_build; then
    print VK_DRIVER_FILES "$driver" RUNNER ""
else
    # shellcheck source=/dev/null
    . /etc/os-release
    [ "${ID:-} ${VERSION_CODENAME:-}" = "debian bookworm" ] || unavailable "install ${packages[*]}" \
        "by the names of this system: Vulkan's headers of 1.3.272 or newer, Mesa 25 or newer"
    [ -e "$folder/complete" ] || unpack
    print VULKAN_SDK "$folder/sdk" RUNNER "$(runner)" \
        VK_DRIVER_FILES "$folder/root/usr/share/vulkan/icd.d/lvp_icd.json"
fi
# Compiling the shaders takes the CPU minutes, once.
mkdir -p "$folder/cache"
print GGML_VK_VISIBLE_DEVICES 0 MESA_SHADER_CACHE_DIR "$folder/cache"
