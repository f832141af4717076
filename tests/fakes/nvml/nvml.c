/* A stand-in for libnvidia-ml.so.1 with NVML's ABI, for machines without a GPU.
 *
 * Every call reads the file named by FAKE_NVML_STATE again, so a test changes values and errors while it runs:
 *   count=8                       GPUs present
 *   0.power_mw=312500             a value of GPU 0 (absent: NVML_ERROR_NOT_SUPPORTED)
 *   error.nvmlDeviceGetName=15    every GPU's call returns this error; error.2.nvmlDeviceGetName: GPU 2's only
 *   error.2=15                    every call on GPU 2 returns it
 *   hang.nvmlDeviceGetName=1      the call does not return while this line is there
 * No file: the driver is not loaded. MIG: 0.mig=2 makes slices "0.mig0", "0.mig1" with values of their own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GPUS_MAX 16
#define SLICES_MAX 7
#define OK 0
#define UNINITIALIZED 1
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6
#define INSUFFICIENT_SIZE 7
#define DRIVER_NOT_LOADED 9

typedef unsigned long long u64;
typedef struct { char name[24]; } Device;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned version; u64 total, reserved, free, used; } MemoryV2;
typedef struct { unsigned pid; u64 memory; unsigned gpu_instance, compute_instance; } Process;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
typedef union { double d; unsigned u; unsigned long ul; u64 ull; long long sll; int i; unsigned short us; } Value;
typedef struct { unsigned id, scope; long long timestamp, latency; unsigned type; int status; Value value; } Field;

static Device gpus[GPUS_MAX], slices[GPUS_MAX][SLICES_MAX];
static int initialized;

static int lookup(const char *key, char *value, size_t size) {
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    size_t length = strlen(key);
    int found = 0;
    if (!file) return 0;
    while (!found && fgets(line, sizeof line, file))
        if (!strncmp(line, key, length) && line[length] == '=') {
            line[strcspn(line, "\n")] = 0;
            snprintf(value, size, "%s", line + length + 1);
            found = 1;
        }
    fclose(file);
    return found;
}

static int number(const char *key, u64 *value) {
    char text[512];
    if (!lookup(key, text, sizeof text)) return 0;
    *value = strtoull(text, NULL, 0);
    return 1;
}

/* What the state file injects into this call: it may hang, and then returns the error to give, or OK. */
static int enter(const char *call, const Device *device) {
    char key[128];
    u64 value;
    snprintf(key, sizeof key, "hang.%s", call);
    while (number(key, &value)) usleep(10000);
    if (!getenv("FAKE_NVML_STATE") || access(getenv("FAKE_NVML_STATE"), R_OK)) return DRIVER_NOT_LOADED;
    snprintf(key, sizeof key, "error.%s", call);
    if (number(key, &value)) return (int)value;
    if (!strncmp(call, "nvmlInit", 8)) return OK;
    if (!initialized) return UNINITIALIZED;
    if (!device) return OK;
    snprintf(key, sizeof key, "error.%s.%s", device->name, call);
    if (number(key, &value)) return (int)value;
    snprintf(key, sizeof key, "error.%s", device->name);
    return number(key, &value) ? (int)value : OK;
}

static int of_device(const Device *device, const char *what, u64 *value) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", device->name, what);
    return number(key, value) ? OK : NOT_SUPPORTED;
}

static int text_of(const Device *device, const char *what, char *text, unsigned size) {
    char key[128];
    snprintf(key, sizeof key, "%s.%s", device->name, what);
    return lookup(key, text, size) ? OK : NOT_SUPPORTED;
}

static int small(const char *call, const Device *device, const char *what, unsigned *out) {
    u64 value = 0;
    int status = enter(call, device);
    if (!status) status = of_device(device, what, &value);
    if (!status) *out = (unsigned)value;
    return status;
}

static int large(const char *call, const Device *device, const char *what, u64 *out) {
    int status = enter(call, device);
    return status ? status : of_device(device, what, out);
}

int nvmlInitWithFlags(unsigned flags) {
    int status = enter("nvmlInitWithFlags", NULL);
    (void)flags;
    if (status) return status;
    for (int i = 0; i < GPUS_MAX; i++) {
        snprintf(gpus[i].name, sizeof gpus[i].name, "%d", i);
        for (int j = 0; j < SLICES_MAX; j++) snprintf(slices[i][j].name, sizeof slices[i][j].name, "%d.mig%d", i, j);
    }
    initialized = 1;
    return OK;
}

int nvmlShutdown(void) {
    int status = enter("nvmlShutdown", NULL);
    if (!status) initialized = 0;
    return status;
}

const char *nvmlErrorString(int status) {
    static char text[32];
    switch (status) {
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    default: snprintf(text, sizeof text, "Error %d", status); return text;
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    int status = enter("nvmlSystemGetDriverVersion", NULL);
    return status ? status : lookup("driver", text, size) ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    u64 value = 0;
    int status = enter("nvmlDeviceGetCount_v2", NULL);
    number("count", &value);
    if (!status) *count = (unsigned)value;
    return status;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    u64 count = 0;
    number("count", &count);
    if (index >= count || index >= GPUS_MAX) return INVALID_ARGUMENT;
    *device = &gpus[index];
    return enter("nvmlDeviceGetHandleByIndex_v2", *device);
}

int nvmlDeviceGetUUID(Device *d, char *text, unsigned size) {
    int status = enter("nvmlDeviceGetUUID", d);
    return status ? status : text_of(d, "uuid", text, size);
}

int nvmlDeviceGetName(Device *d, char *text, unsigned size) {
    int status = enter("nvmlDeviceGetName", d);
    return status ? status : text_of(d, "name", text, size);
}

int nvmlDeviceGetPciInfo_v3(Device *d, Pci *pci) {
    int status = enter("nvmlDeviceGetPciInfo_v3", d);
    return status ? status : text_of(d, "bus_id", pci->bus_id, sizeof pci->bus_id);
}

int nvmlDeviceGetUtilizationRates(Device *d, Utilization *out) {
    int status = small("nvmlDeviceGetUtilizationRates", d, "utilization", &out->gpu);
    return status ? status : small("nvmlDeviceGetUtilizationRates", d, "memory_utilization", &out->memory);
}

int nvmlDeviceGetMemoryInfo(Device *d, Memory *out) {
    int status = large("nvmlDeviceGetMemoryInfo", d, "memory_total", &out->total);
    if (!status) status = of_device(d, "memory_free", &out->free);
    return status ? status : of_device(d, "memory_used", &out->used);
}

int nvmlDeviceGetMemoryInfo_v2(Device *d, MemoryV2 *out) {
    int status = large("nvmlDeviceGetMemoryInfo_v2", d, "memory_total", &out->total);
    if (!status && out->version != 0x02000028) status = 25;
    if (!status) status = of_device(d, "memory_reserved", &out->reserved);
    if (!status) status = of_device(d, "memory_free", &out->free);
    return status ? status : of_device(d, "memory_used", &out->used);
}

int nvmlDeviceGetPowerUsage(Device *d, unsigned *out) { return small("nvmlDeviceGetPowerUsage", d, "power_mw", out); }

int nvmlDeviceGetEnforcedPowerLimit(Device *d, unsigned *out) {
    return small("nvmlDeviceGetEnforcedPowerLimit", d, "power_limit_mw", out);
}

int nvmlDeviceGetTotalEnergyConsumption(Device *d, u64 *out) {
    return large("nvmlDeviceGetTotalEnergyConsumption", d, "energy_mj", out);
}

int nvmlDeviceGetTemperature(Device *d, int sensor, unsigned *out) {
    (void)sensor;
    return small("nvmlDeviceGetTemperature", d, "temperature", out);
}

int nvmlDeviceGetClockInfo(Device *d, int type, unsigned *out) {
    return small("nvmlDeviceGetClockInfo", d, type == 2 ? "memory_clock_mhz" : "sm_clock_mhz", out);
}

int nvmlDeviceGetMaxClockInfo(Device *d, int type, unsigned *out) {
    (void)type;
    return small("nvmlDeviceGetMaxClockInfo", d, "sm_clock_max_mhz", out);
}

int nvmlDeviceGetCurrentClocksEventReasons(Device *d, u64 *out) {
    return large("nvmlDeviceGetCurrentClocksEventReasons", d, "throttle", out);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device *d, u64 *out) {
    return large("nvmlDeviceGetCurrentClocksThrottleReasons", d, "throttle", out);
}

int nvmlDeviceGetFanSpeed(Device *d, unsigned *out) { return small("nvmlDeviceGetFanSpeed", d, "fan", out); }

int nvmlDeviceGetCurrPcieLinkGeneration(Device *d, unsigned *out) {
    return small("nvmlDeviceGetCurrPcieLinkGeneration", d, "pcie_generation", out);
}

int nvmlDeviceGetCurrPcieLinkWidth(Device *d, unsigned *out) {
    return small("nvmlDeviceGetCurrPcieLinkWidth", d, "pcie_width", out);
}

int nvmlDeviceGetTotalEccErrors(Device *d, int error, int counter, u64 *out) {
    (void)counter;
    return large("nvmlDeviceGetTotalEccErrors", d, error ? "ecc_uncorrected" : "ecc_corrected", out);
}

/* 0.processes=PID:BYTES,PID:BYTES */
int nvmlDeviceGetComputeRunningProcesses_v3(Device *d, unsigned *count, Process *out) {
    char text[256] = "", *rest = text, *word;
    unsigned found = 0;
    int status = enter("nvmlDeviceGetComputeRunningProcesses_v3", d);
    if (!status) status = text_of(d, "processes", text, sizeof text);
    if (status) return status;
    while ((word = strsep(&rest, ",")) && *word) {
        if (out && found < *count) {
            memset(&out[found], 0, sizeof *out);
            out[found].pid = (unsigned)strtoul(word, &word, 10);
            out[found].memory = strtoull(word + 1, NULL, 0);
        }
        found++;
    }
    status = found && (!out || found > *count) ? INSUFFICIENT_SIZE : OK;
    *count = found;
    return status;
}

/* 0.field197=VALUE; each value has a status of its own. */
int nvmlDeviceGetFieldValues(Device *d, int count, Field *fields) {
    char key[32];
    int status = enter("nvmlDeviceGetFieldValues", d);
    for (int i = 0; !status && i < count; i++) {
        snprintf(key, sizeof key, "field%u", fields[i].id);
        fields[i].type = 3;
        fields[i].status = of_device(d, key, &fields[i].value.ull);
    }
    return status;
}

int nvmlDeviceGetMigMode(Device *d, unsigned *current, unsigned *pending) {
    u64 found = 0;
    int status = large("nvmlDeviceGetMigMode", d, "mig", &found);
    *current = *pending = found > 0;
    return status;
}

int nvmlDeviceGetMaxMigDeviceCount(Device *d, unsigned *count) {
    int status = enter("nvmlDeviceGetMaxMigDeviceCount", d);
    *count = SLICES_MAX;
    return status;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *d, unsigned index, Device **slice) {
    u64 found = 0;
    int status = large("nvmlDeviceGetMigDeviceHandleByIndex", d, "mig", &found);
    if (status) return status;
    if (index >= found) return NOT_FOUND;
    *slice = &slices[d - gpus][index];
    return OK;
}
