/* A disk whose flush takes a second and a half, for a process that is started with this library preloaded. */
#include <time.h>
#include <unistd.h>

int fdatasync(int file)
{
    struct timespec pause = {1, 500000000L};
    (void)file;
    return nanosleep(&pause, NULL);
}
