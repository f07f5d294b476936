/* tests/fuzz/replay.c - runs a fuzz target over every file of a corpus folder, so that what fuzzing
 * once found stays found in an ordinary build. Fails when the folder is missing or empty. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static int replay_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return -1;
    fseek(file, 0, SEEK_END);
    long end = ftell(file);
    rewind(file);
    size_t bytes = end > 0 ? (size_t)end : 0;
    uint8_t *data = malloc(bytes + 1);
    if (data == NULL || fread(data, 1, bytes, file) != bytes) {
        free(data);
        fclose(file);
        return -1;
    }
    fclose(file);
    /* Exactly bytes long, so that a sanitizer sees a read past the end. */
    uint8_t *exact = malloc(bytes > 0 ? bytes : 1);
    for (size_t i = 0; exact != NULL && i < bytes; i++)
        exact[i] = data[i];
    free(data);
    LLVMFuzzerTestOneInput(exact, bytes);
    free(exact);
    return 0;
}

int main(int argc, char **argv)
{
    int count = 0;
    for (int i = 1; i < argc; i++) {
        DIR *folder = opendir(argv[i]);
        if (folder == NULL) {
            fprintf(stderr, "replay: cannot open corpus folder %s\n", argv[i]);
            return 1;
        }
        for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
            if (entry->d_name[0] == '.')
                continue;
            char path[4096];
            snprintf(path, sizeof(path), "%s/%s", argv[i], entry->d_name);
            if (replay_file(path) != 0) {
                fprintf(stderr, "replay: cannot read %s\n", path);
                return 1;
            }
            count++;
        }
        closedir(folder);
    }
    if (count == 0) {
        fprintf(stderr, "replay: the corpus is empty\n");
        return 1;
    }
    printf("replayed %d inputs\n", count);
    return 0;
}
