/* A stand-in for libcuda.so.1 that answers as tests/abi/devices.rs wants it: a driver of VERSION, whose cuInit answers INIT, with DEVICES old GPUs.
 * No GPU of it can be opened. */
#include <stdio.h>
#include <string.h>

int cuDriverGetVersion(int *version) {
    *version = VERSION;
    return 0;
}

int cuInit(unsigned flags) {
    (void)flags;
    return INIT;
}

int cuGetErrorString(int error, const char **text) {
    (void)error;
    *text = "a stand-in's error";
    return 0;
}

int cuDeviceGetCount(int *count) {
    *count = DEVICES;
    return 0;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return 0;
}

/* Compute capability 6.1; 7 of everything else. */
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 6 : attribute == 76 ? 1 : 7;
    return 0;
}

int cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, (size_t)size, "old GPU %d", device);
    return 0;
}

int cuDeviceGetUuid_v2(char *uuid, int device) {
    memset(uuid, device + 1, 16);
    return 0;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    (void)device;
    *bytes = 1 << 30;
    return 0;
}
