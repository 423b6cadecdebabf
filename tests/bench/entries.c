/* The plain loop over L2 entries: counts those in use and makes a bitmap of them. */

#include <endian.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define PIECE (1 << 20)
#define HELD 0x40fffffffffffe01ULL /* offset, zero flag, compressed flag */

/* reads: pairs of offset and length, at most PIECE each. bits: one for each entry. */
int64_t count_entries(int descriptor, const int64_t *reads, int64_t count, uint8_t *bits)
{
    uint64_t *words = malloc(PIECE);
    int64_t used = 0, place = 0;

    if (words == NULL)
        return -1;
    for (int64_t i = 0; i < count; i++) {
        if (pread(descriptor, words, reads[2 * i + 1], reads[2 * i]) != reads[2 * i + 1]) {
            used = -1;
            break;
        }
        for (int64_t j = 0; j < reads[2 * i + 1] / 8; j += 8) {
            unsigned byte = 0;

            for (int k = 0; k < 8; k++)
                byte = byte << 1 | ((be64toh(words[j + k]) & HELD) != 0);
            used += __builtin_popcount(byte);
            bits[place++] = byte;
        }
    }
    free(words);
    return used;
}
