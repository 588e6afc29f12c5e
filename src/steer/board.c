/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "steer/steer.h"

int steer_board_new(int *ret_fd)
{
        _cleanup_close_ int fd =
                memfd_create("cleave-steer-board", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        struct steer_board *board;

        if (fd < 0)
                return -errno;
        if (ftruncate(fd, sizeof(*board)) < 0 ||
                fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                return -errno;
        board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (board == MAP_FAILED)
                return -errno;
        board->magic = STEER_BOARD_MAGIC;
        board->version = STEER_BOARD_VERSION;
        board->size = sizeof(*board);
        steer_board_unmap(board);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int steer_board_map(int fd, struct steer_board **ret)
{
        struct steer_board *board;
        struct stat st;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_size != (off_t)sizeof(*board))
                return -EBADMSG;
        board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (board == MAP_FAILED)
                return -errno;
        if (board->magic != STEER_BOARD_MAGIC || board->version != STEER_BOARD_VERSION ||
                board->size != sizeof(*board)) {
                steer_board_unmap(board);
                return -EBADMSG;
        }
        *ret = board;
        return 0;
}

void steer_board_unmap(struct steer_board *board)
{
        if (board)
                munmap(board, sizeof(*board));
}

unsigned steer_board_count(const struct steer_board *board)
{
        unsigned high = MIN_OF(atomic_load(&board->high), STEER_BOARD_ENTRIES), n = 0;

        for (unsigned i = 0; i < high; i++)
                n += atomic_load(&board->entry[i].used) == 1;
        return n;
}
