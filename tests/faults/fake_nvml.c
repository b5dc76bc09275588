/* A libnvidia-ml.so.1 whose GPUs are lines of a text file, read anew at each call, so that a test can break a GPU while
 * a daemon runs. AIWM_TEST_FAKE_NVML names the file:
 *
 *   init 18                                nvmlInit fails with this code (nvml.h has them)
 *   count 18                               every later question fails with it: the driver went away
 *   driver 550.54.15
 *   gpu GPU-aaaa temperature=61 used=1024  a device; values that are not given have defaults
 *   gpu GPU-bbbb temperature=!3 ecc=!3     a value that answers with an error instead
 *   gpu GPU-cccc state=15                  everything about the device but its place answers with an error
 *   gpu GPU-dddd handle=15                 not even its place does
 *   process GPU-aaaa 4711 2048             a process and its memory in MiB
 *   context GPU-aaaa 4711 2048             the same while that process lives, and counted in what the GPU has in use
 *   xid GPU-aaaa 79                        an event, told once
 *   hang                                   the next question is never answered
 *
 * Only what the daemon asks for is here. Sizes are in MiB.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, TOO_SMALL = 7, DRIVER_NOT_LOADED = 9, TIMEOUT = 10, NOT_THERE = 6 };
enum { MOST_GPUS = 16, MOST_LINES = 256, LINE = 512 };

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } Process;
typedef struct { void *device; unsigned long long type, number; unsigned instance, compute; } Event;

/* A handle is a place in this table, so that it stays the same device's when others vanish. */
static char uuids[MOST_GPUS][96];
static int events_told;

static int lines(char out[MOST_LINES][LINE], const char *kind) {
    const char *path = getenv("AIWM_TEST_FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[LINE];
    int count = 0;
    size_t length = strlen(kind);
    if (!file) return 0;
    while (count < MOST_LINES && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (!strncmp(line, "hang", 4)) for (;;) pause();
        if (!strncmp(line, kind, length) && (line[length] == ' ' || !line[length])) strcpy(out[count++], line);
    }
    fclose(file);
    return count;
}

static int number_of(const char *kind, int otherwise) {
    char found[MOST_LINES][LINE];
    return lines(found, kind) ? atoi(found[0] + strlen(kind)) : otherwise;
}

static const char *uuid_of(void *device) { return uuids[(long)device - 1]; }

static void *handle_of(const char *uuid) {
    for (long place = 0; place < MOST_GPUS; place++) {
        if (!uuids[place][0]) strncpy(uuids[place], uuid, sizeof uuids[place] - 1);
        if (!strcmp(uuids[place], uuid)) return (void *)(place + 1);
    }
    abort();
}

/* The text of `key=` in the device's line; "" when it is not given, NULL when there is no such device. */
static const char *text_of(void *device, const char *key) {
    static __thread char found[MOST_LINES][LINE];
    char uuid[96], wanted[32];
    snprintf(wanted, sizeof wanted, " %s=", key);
    for (int each = 0, count = lines(found, "gpu"); each < count; each++) {
        if (sscanf(found[each], "gpu %95s", uuid) != 1 || strcmp(uuid, uuid_of(device))) continue;
        char *at = strstr(found[each], wanted);
        return at ? at + strlen(wanted) : "";
    }
    return NULL;
}

static int value_of(void *device, const char *key, unsigned long long otherwise, unsigned long long *value) {
    const char *state = text_of(device, "state");
    if (!state) return 15;
    if (*state) return atoi(state);
    const char *text = text_of(device, key);
    if (*text == '!') return atoi(text + 1);
    *value = *text ? strtoull(text, NULL, 10) : otherwise;
    return SUCCESS;
}

static int copy(char *into, unsigned size, const char *text) {
    if (strlen(text) >= size) return TOO_SMALL;
    strcpy(into, text);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return number_of("init", SUCCESS); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the fake driver"; }

int nvmlSystemGetDriverVersion(char *into, unsigned size) {
    char found[MOST_LINES][LINE];
    return copy(into, size, lines(found, "driver") ? found[0] + strlen("driver ") : "550.54.15");
}

int nvmlSystemGetCudaDriverVersion(int *version) { *version = 12040; return SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

#ifndef OLD_DRIVER
int nvmlDeviceGetCount_v2(unsigned *count) {
    char found[MOST_LINES][LINE];
    *count = (unsigned)lines(found, "gpu");
    return number_of("count", SUCCESS);
}
#endif

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    char found[MOST_LINES][LINE], uuid[96];
    if ((int)index >= lines(found, "gpu") || sscanf(found[index], "gpu %95s", uuid) != 1) return INVALID;
    *device = handle_of(uuid);
    const char *handle = text_of(*device, "handle");
    return handle && *handle ? atoi(handle) : SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *into, unsigned size) {
    unsigned long long ignored;
    int code = value_of(device, "uuid", 0, &ignored);
    return code ? code : copy(into, size, uuid_of(device));
}

int nvmlDeviceGetName(void *device, char *into, unsigned size) {
    unsigned long long ignored;
    int code = value_of(device, "name", 0, &ignored);
    return code ? code : copy(into, size, "Fake A100-80GB");
}

/* A zombie has no program any more, and a real driver has freed what it held. */
static int lives(unsigned pid) {
    char path[64], program[8];
    snprintf(path, sizeof path, "/proc/%u/exe", pid);
    return readlink(path, program, sizeof program) >= 0;
}

static unsigned processes_of(const char *kind, void *device, Process *into, unsigned room) {
    char found[MOST_LINES][LINE], name[LINE], uuid[96];
    unsigned pid, count = 0;
    unsigned long long mib;
    for (int each = 0, all = lines(found, kind); each < all; each++) {
        if (sscanf(found[each], "%s %95s %u %llu", name, uuid, &pid, &mib) != 4 || strcmp(uuid, uuid_of(device))) continue;
        if (!strcmp(kind, "context") && !lives(pid)) continue;
        if (count < room) into[count] = (Process){pid, mib << 20, 0, 0};
        count++;
    }
    return count;
}

int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    unsigned long long used = 0, total = 0;
    Process holders[MOST_LINES];
    int code = value_of(device, "used", 1024, &used);
    if (!code) code = value_of(device, "total", 81920, &total);
    for (unsigned each = processes_of("context", device, holders, MOST_LINES); each; each--) used += holders[each - 1].used >> 20;
    memory->used = used << 20;
    memory->total = total << 20;
    memory->free = (total - used) << 20;
    return code;
}

int nvmlDeviceGetUtilizationRates(void *device, Utilization *use) {
    unsigned long long value = 0;
    int code = value_of(device, "utilization", 42, &value);
    use->gpu = use->memory = (unsigned)value;
    return code;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *temperature) {
    unsigned long long value = 0;
    int code = sensor ? INVALID : value_of(device, "temperature", 61, &value);
    *temperature = (unsigned)value;
    return code;
}

int nvmlDeviceGetTotalEccErrors(void *device, int type, int counter, unsigned long long *count) {
    return type == 1 && counter == 0 ? value_of(device, "ecc", 0, count) : INVALID;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *into) {
    unsigned long long ignored;
    unsigned room = *count, first;
    int code = value_of(device, "processes", 0, &ignored);
    if (code) return code;
    first = processes_of("process", device, into, room);
    *count = first + processes_of("context", device, into + first, first < room ? room - first : 0);
    return *count > room ? TOO_SMALL : SUCCESS;
}

int nvmlEventSetCreate(void **set) { *set = &events_told; return SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }

int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
    unsigned long long ignored;
    return types == 8 && set == &events_told ? value_of(device, "events", 0, &ignored) : INVALID;
}

int nvmlEventSetWait_v2(void *set, Event *event, unsigned milliseconds) {
    char found[MOST_LINES][LINE], uuid[96];
    int number;
    if (set != &events_told || milliseconds) return INVALID;
    if (events_told >= lines(found, "xid") || sscanf(found[events_told], "xid %95s %d", uuid, &number) != 2) return TIMEOUT;
    events_told++;
    *event = (Event){handle_of(uuid), 8, (unsigned long long)number, 0, 0};
    return SUCCESS;
}
