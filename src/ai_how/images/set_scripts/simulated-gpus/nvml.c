/*
 * libnvidia-ml.so.1 of simulated GPUs: answers SLURM's plugin gpu/nvml and programs that use pynvml.
 *
 * All that it knows is in the list from which the node makes its device files. It has no number that only a card can
 * give: such functions answer NOT_SUPPORTED, and those that are missing here are "function not found" to pynvml.
 *
 * Names, numbers and layouts are those of NVIDIA's NVML API reference, and of what its callers declare: pynvml 12.550
 * (its ctypes structures) and SLURM's gpu_nvml.c. No header of NVIDIA is used.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIST "/etc/ai-how/gpus"
#define DRIVER_VERSION "550.0.0+simulated"
#define NVML_VERSION "12.550.0+simulated"

enum { MOST_CARDS = 16, MOST_SLICES = 8, MOST_LANES = 18, TEXT = 96, LINE = 512 };
/* nvmlReturn_t */
enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
};
enum { PERSISTENT_ID_LENGTH = 16, LEGACY_ID_LENGTH = 16, BUS_ID_LENGTH = 32, FLAG_NO_GPUS = 1 };

typedef struct device {
    struct device *card; /* of a slice; of a card itself */
    unsigned int index;  /* among those that may be opened */
    unsigned int number; /* of a card: in the list, and that of its device file */
    unsigned int instance;
    unsigned int slice_count;
    unsigned long long memory_mib;
    char name[TEXT], uuid[TEXT], cpus[LINE];
    unsigned int lane_count, lanes[MOST_LANES]; /* the number of the card at the other end of each */
    struct device *slices;
} device;

typedef struct {
    char legacy_id[LEGACY_ID_LENGTH];
    unsigned int domain, bus, device, device_id, subsystem_id;
    char id[BUS_ID_LENGTH];
} pci_info;

typedef struct {
    unsigned long long total, free, used;
} memory_info;

typedef struct {
    unsigned int version;
    unsigned long long total, reserved, free, used;
} memory_info_v2;

typedef struct {
    unsigned int processors, copy_engines, decoders, encoders, jpeg_engines, ofa_engines;
    unsigned int instance_slices, compute_slices;
    unsigned long long memory_mib;
} attributes;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned int users;
static device cards[MOST_CARDS], slices[MOST_CARDS][MOST_SLICES];
static unsigned int card_count;
static char buses[MOST_CARDS][TEXT]; /* of all cards, by their numbers */

/* The text up to the next tab, which it ends there; the rest begins after it. */
static char *word(char **rest) {
    char *found = *rest ? *rest : "";
    char *end = strchr(found, '\t');
    if (end) {
        *end = '\0';
    }
    *rest = end ? end + 1 : NULL;
    return found;
}

static void copy(char *target, size_t size, const char *source) { snprintf(target, size, "%s", source); }

/* As the driver's own library: what the device filter of a job refuses is not there, and the rest is numbered anew. */
static bool may_open(const char *path) { return access(path, R_OK | W_OK) == 0; }

static device *read_gpu(unsigned int number, char *rest) {
    if (card_count == MOST_CARDS || number >= MOST_CARDS) {
        return NULL;
    }
    device *card = &cards[card_count];
    *card = (device){.card = card, .index = card_count, .number = number, .slices = slices[card_count]};
    copy(card->name, TEXT, word(&rest));
    copy(card->uuid, TEXT, word(&rest));
    card->memory_mib = strtoull(word(&rest), NULL, 10);
    if (!may_open(word(&rest))) {
        return NULL;
    }
    card_count++;
    return card;
}

static device *read_mig(device *card, char *rest) {
    if (card->slice_count == MOST_SLICES) {
        return NULL;
    }
    device *slice = &card->slices[card->slice_count];
    *slice = (device){.card = card, .index = card->slice_count};
    if (snprintf(slice->name, TEXT, "%s MIG %s", card->name, word(&rest)) >= TEXT) {
        return NULL;
    }
    copy(slice->uuid, TEXT, word(&rest));
    slice->memory_mib = strtoull(word(&rest), NULL, 10);
    if (!may_open(word(&rest))) {
        return NULL;
    }
    card->slice_count++;
    return slice;
}

/* "-1,2,2": two lanes to the card of number 1, and two to that of number 2. */
static void read_links(device *card, char *text) {
    unsigned int other = 0;
    for (char *rest = text; *rest && other < MOST_CARDS; other++) {
        long lanes = strtol(rest, &rest, 10);
        for (; lanes > 0 && card->lane_count < MOST_LANES; lanes--) {
            card->lanes[card->lane_count++] = other;
        }
        rest += *rest == ',';
    }
}

/* False if the list has no cards that NVML shall know: those have a bus. */
static bool read_list(void) {
    const char *other = secure_getenv("AI_HOW_GPUS");
    FILE *list = fopen(other ? other : LIST, "re");
    char line[LINE];
    device *card = NULL, *slice = NULL;
    bool has_bus = false;

    card_count = 0;
    while (list && fgets(line, sizeof line, list)) {
        char *rest = line;
        line[strcspn(line, "\n")] = '\0';
        char *kind = word(&rest);
        unsigned int number = strtoul(word(&rest), NULL, 10);
        device *its_card = card && card->number == number ? card : NULL;
        if (!strcmp(kind, "gpu")) {
            card = read_gpu(number, rest);
            slice = NULL;
        } else if (!strcmp(kind, "bus") && number < MOST_CARDS) {
            has_bus = true;
            copy(buses[number], TEXT, word(&rest));
        } else if (!strcmp(kind, "cpus") && its_card) {
            copy(card->cpus, LINE, word(&rest));
        } else if (!strcmp(kind, "links") && its_card) {
            read_links(card, word(&rest));
        } else if (!strcmp(kind, "mig")) {
            slice = its_card ? read_mig(card, rest) : NULL;
        } else if (!strcmp(kind, "slice") && slice) {
            slice->instance = strtoul(word(&rest), NULL, 10);
        }
    }
    if (list) {
        fclose(list);
    }
    return has_bus;
}

static int check(const device *one, const void *answer) {
    if (!users) {
        return UNINITIALIZED;
    }
    return one && answer ? SUCCESS : INVALID_ARGUMENT;
}

static int check_slice(const device *one, const void *answer) {
    int code = check(one, answer);
    return code == SUCCESS && one->card == one ? INVALID_ARGUMENT : code;
}

static int check_card(const device *one, const void *answer) {
    int code = check(one, answer);
    return code == SUCCESS && one->card != one ? INVALID_ARGUMENT : code;
}

static int give_text(const char *text, char *target, unsigned int size) {
    if (strlen(text) >= size) {
        return INSUFFICIENT_SIZE;
    }
    copy(target, size, text);
    return SUCCESS;
}

static void give_bus(const char *text, pci_info *answer) {
    unsigned int domain = 0, bus = 0, number = 0;
    sscanf(text, "%x:%x:%x", &domain, &bus, &number);
    memset(answer, 0, sizeof *answer);
    answer->domain = domain;
    answer->bus = bus;
    answer->device = number;
    snprintf(answer->legacy_id, LEGACY_ID_LENGTH, "%04X:%02X:%02X.0", domain & 0xffff, bus & 0xff, number & 0xff);
    snprintf(answer->id, BUS_ID_LENGTH, "%08X:%02X:%02X.0", domain, bus, number);
}

/* The library itself */

int nvmlInitWithFlags(unsigned int flags) {
    pthread_mutex_lock(&lock);
    bool has_cards = users || read_list() || flags & FLAG_NO_GPUS;
    users += has_cards;
    pthread_mutex_unlock(&lock);
    return has_cards ? SUCCESS : DRIVER_NOT_LOADED;
}

int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

int nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    int code = users ? SUCCESS : UNINITIALIZED;
    users -= code == SUCCESS;
    pthread_mutex_unlock(&lock);
    return code;
}

const char *nvmlErrorString(int code) {
    switch (code) {
    case SUCCESS:
        return "The operation was successful";
    case UNINITIALIZED:
        return "NVML was not first initialized with nvmlInit()";
    case INVALID_ARGUMENT:
        return "A supplied argument is invalid";
    case NOT_SUPPORTED:
        return "Not supported by a simulated GPU";
    case NOT_FOUND:
        return "A query to find an object was unsuccessful";
    case INSUFFICIENT_SIZE:
        return "An input argument is not large enough";
    case DRIVER_NOT_LOADED:
        return "No simulated GPUs with NVML on this node";
    default:
        return "Unknown error";
    }
}

int nvmlSystemGetDriverVersion(char *version, unsigned int size) {
    return version ? give_text(DRIVER_VERSION, version, size) : INVALID_ARGUMENT;
}

int nvmlSystemGetNVMLVersion(char *version, unsigned int size) {
    return version ? give_text(NVML_VERSION, version, size) : INVALID_ARGUMENT;
}

/* Cards */

int nvmlDeviceGetCount_v2(unsigned int *count) {
    int code = check(cards, count);
    if (code == SUCCESS) {
        *count = card_count;
    }
    return code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, device **found) {
    int code = check(cards, found);
    if (code != SUCCESS || index >= card_count) {
        return code == SUCCESS ? INVALID_ARGUMENT : code;
    }
    *found = &cards[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device **found) {
    int code = check(cards, uuid && found ? found : NULL);
    for (unsigned int card = 0; code == SUCCESS && card < card_count; card++) {
        *found = &cards[card];
        if (!strcmp(cards[card].uuid, uuid)) {
            return SUCCESS;
        }
        for (unsigned int slice = 0; slice < cards[card].slice_count; slice++) {
            *found = &cards[card].slices[slice];
            if (!strcmp((*found)->uuid, uuid)) {
                return SUCCESS;
            }
        }
    }
    return code == SUCCESS ? NOT_FOUND : code;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *id, device **found) {
    unsigned int domain, bus, number;
    int code = check(cards, id && found ? found : NULL);
    if (code != SUCCESS || sscanf(id, "%x:%x:%x", &domain, &bus, &number) != 3) {
        return code == SUCCESS ? INVALID_ARGUMENT : code;
    }
    for (unsigned int card = 0; card < card_count; card++) {
        pci_info info;
        give_bus(buses[cards[card].number], &info);
        if (info.domain == domain && info.bus == bus && info.device == number) {
            *found = &cards[card];
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetName(device *one, char *name, unsigned int size) {
    int code = check(one, name);
    return code == SUCCESS ? give_text(one->name, name, size) : code;
}

int nvmlDeviceGetUUID(device *one, char *uuid, unsigned int size) {
    int code = check(one, uuid);
    return code == SUCCESS ? give_text(one->uuid, uuid, size) : code;
}

int nvmlDeviceGetIndex(device *one, unsigned int *index) {
    int code = check_card(one, index);
    if (code == SUCCESS) {
        *index = one->index;
    }
    return code;
}

int nvmlDeviceGetMinorNumber(device *one, unsigned int *minor) {
    int code = check_card(one, minor);
    if (code == SUCCESS) {
        *minor = one->number;
    }
    return code;
}

int nvmlDeviceGetPciInfo_v3(device *one, pci_info *answer) {
    int code = check(one, answer);
    if (code == SUCCESS) {
        give_bus(buses[one->card->number], answer);
    }
    return code;
}

/* Nothing ever takes any of it. */
int nvmlDeviceGetMemoryInfo(device *one, memory_info *answer) {
    int code = check(one, answer);
    if (code == SUCCESS) {
        *answer = (memory_info){.total = one->memory_mib << 20, .free = one->memory_mib << 20};
    }
    return code;
}

int nvmlDeviceGetMemoryInfo_v2(device *one, memory_info_v2 *answer) {
    int code = check(one, answer);
    if (code == SUCCESS) {
        unsigned long long bytes = one->memory_mib << 20;
        *answer = (memory_info_v2){.version = answer->version, .total = bytes, .free = bytes};
    }
    return code;
}

/* "0-3,8": the CPUs of the card's socket, in as many words as the caller has. */
int nvmlDeviceGetCpuAffinity(device *one, unsigned int size, unsigned long *words) {
    const unsigned int bits = 8 * sizeof *words;
    int code = check(one, words);
    if (code != SUCCESS) {
        return code;
    }
    memset(words, 0, size * sizeof *words);
    for (char *rest = one->card->cpus; *rest;) {
        unsigned long first = strtoul(rest, &rest, 10), last = first;
        if (*rest == '-') {
            last = strtoul(rest + 1, &rest, 10);
        }
        for (; first <= last && first / bits < size; first++) {
            words[first / bits] |= 1UL << first % bits;
        }
        if (*rest++ != ',') {
            break;
        }
    }
    return SUCCESS;
}

/* MIG */

int nvmlDeviceGetMigMode(device *one, unsigned int *current, unsigned int *pending) {
    int code = check_card(one, current && pending ? current : NULL);
    if (code == SUCCESS) {
        *current = *pending = one->slice_count > 0;
    }
    return code;
}

int nvmlDeviceGetMaxMigDeviceCount(device *one, unsigned int *count) {
    int code = check_card(one, count);
    if (code == SUCCESS) {
        *count = one->slice_count;
    }
    return code;
}

int nvmlDeviceGetMigDeviceHandleByIndex(device *one, unsigned int index, device **found) {
    int code = check_card(one, found);
    if (code != SUCCESS || index >= one->slice_count) {
        return code == SUCCESS ? NOT_FOUND : code;
    }
    *found = &one->slices[index];
    return SUCCESS;
}

int nvmlDeviceIsMigDeviceHandle(device *one, unsigned int *is_slice) {
    int code = check(one, is_slice);
    if (code == SUCCESS) {
        *is_slice = one->card != one;
    }
    return code;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device *one, device **card) {
    int code = check_slice(one, card);
    if (code == SUCCESS) {
        *card = one->card;
    }
    return code;
}

int nvmlDeviceGetGpuInstanceId(device *one, unsigned int *id) {
    int code = check_slice(one, id);
    if (code == SUCCESS) {
        *id = one->instance;
    }
    return code;
}

/* Each GPU instance has one compute instance. */
int nvmlDeviceGetComputeInstanceId(device *one, unsigned int *id) {
    int code = check_slice(one, id);
    if (code == SUCCESS) {
        *id = 0;
    }
    return code;
}

int nvmlDeviceGetAttributes_v2(device *one, attributes *answer) {
    int code = check_slice(one, answer);
    if (code == SUCCESS) {
        unsigned int parts = strtoul(strstr(one->name, " MIG ") + strlen(" MIG "), NULL, 10);
        *answer = (attributes){
            .instance_slices = parts, .compute_slices = parts, .memory_mib = one->memory_mib};
    }
    return code;
}

/* NVLinks */

int nvmlDeviceGetNvLinkState(device *one, unsigned int lane, unsigned int *is_active) {
    int code = check_card(one, is_active);
    if (code != SUCCESS || lane >= MOST_LANES) {
        return code == SUCCESS ? INVALID_ARGUMENT : code;
    }
    if (!one->lane_count) {
        return NOT_SUPPORTED;
    }
    *is_active = lane < one->lane_count;
    return SUCCESS;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(device *one, unsigned int lane, pci_info *answer) {
    int code = check_card(one, answer);
    if (code != SUCCESS || lane >= one->lane_count) {
        return code == SUCCESS ? INVALID_ARGUMENT : code;
    }
    give_bus(buses[one->lanes[lane]], answer);
    return SUCCESS;
}

/* Processes: no program can compute on these. */

static int give_none(device *one, unsigned int *count) {
    int code = check(one, count);
    if (code == SUCCESS) {
        *count = 0;
    }
    return code;
}

int nvmlDeviceGetComputeRunningProcesses_v3(device *one, unsigned int *count, void *processes) {
    (void)processes;
    return give_none(one, count);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(device *one, unsigned int *count, void *processes) {
    (void)processes;
    return give_none(one, count);
}

int nvmlDeviceGetProcessUtilization(device *one, void *samples, unsigned int *count, unsigned long long since) {
    (void)samples, (void)since;
    return give_none(one, count);
}

/* What only a card can tell, or do. The callers pass more arguments than are looked at. */

static int refuse(const device *one) {
    int code = check(one, one);
    return code == SUCCESS ? NOT_SUPPORTED : code;
}

#define NOT_SIMULATED(name) \
    int name(device *one) { return refuse(one); }

NOT_SIMULATED(nvmlDeviceGetSupportedMemoryClocks)
NOT_SIMULATED(nvmlDeviceGetSupportedGraphicsClocks)
NOT_SIMULATED(nvmlDeviceGetApplicationsClock)
NOT_SIMULATED(nvmlDeviceSetApplicationsClocks)
NOT_SIMULATED(nvmlDeviceResetApplicationsClocks)
NOT_SIMULATED(nvmlDeviceGetClockInfo)
NOT_SIMULATED(nvmlDeviceGetMaxClockInfo)
NOT_SIMULATED(nvmlDeviceGetUtilizationRates)
NOT_SIMULATED(nvmlDeviceGetTemperature)
NOT_SIMULATED(nvmlDeviceGetFanSpeed)
NOT_SIMULATED(nvmlDeviceGetPowerUsage)
NOT_SIMULATED(nvmlDeviceGetPowerManagementLimit)
NOT_SIMULATED(nvmlDeviceGetEnforcedPowerLimit)
NOT_SIMULATED(nvmlDeviceGetTotalEnergyConsumption)
NOT_SIMULATED(nvmlDeviceGetPerformanceState)
NOT_SIMULATED(nvmlDeviceGetPersistenceMode)
NOT_SIMULATED(nvmlDeviceGetComputeMode)
NOT_SIMULATED(nvmlDeviceGetSerial)
NOT_SIMULATED(nvmlDeviceGetCudaComputeCapability)
